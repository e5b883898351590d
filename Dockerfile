# The image of the live flow. Code is baked in; data lives in the volume /data.
FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements.lock pyproject.toml setup.py README.md ./
COPY dataflows dataflows
COPY operators operators
COPY packs packs
COPY sql sql
COPY fixtures fixtures
ARG GIT_COMMIT
RUN test -z "$GIT_COMMIT" || sed -i "s/^GIT_COMMIT.*/GIT_COMMIT: str | None = \"$GIT_COMMIT\"/" dataflows/version.py
RUN python -m venv /opt/alpha \
 && /opt/alpha/bin/pip install --no-cache-dir --require-hashes -r requirements.lock \
 && /opt/alpha/bin/pip install --no-cache-dir --no-deps . \
 && /opt/alpha/bin/python -I -c "from operators import native; assert not native.missing()"

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /data alpha \
 && mkdir /data && chown alpha:alpha /data
COPY --from=build /opt/alpha /opt/alpha
ENV PATH=/opt/alpha/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ALPHA_DATA_DIR=/data
USER alpha
WORKDIR /data
VOLUME /data
CMD ["python", "-m", "bytewax.run", "dataflows.live"]
