"""Who produced an event: name and version of this software."""

PRODUCER = "alpha-detector@v0.1.0"
GIT_COMMIT: str | None = None  # written by the image build
