#!/usr/bin/env bash
# An arm64 Python under qemu, for `python -m bench.portability --runner aarch64=DIR/python`.
# Everything comes from Debian 12 and PyPI and stays under DIR; the system is not changed.
#
#   bench/aarch64.sh DIR
set -euo pipefail
mkdir -p "$1"
cd "$1"
here=$PWD
mkdir -p apt/{state/lists/partial,cache/archives/partial} arm64 amd64 root host site wheels
cp -r /etc/apt apt/etc
touch apt/state/status
cat > apt.conf <<EOF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
Dir::State "$here/apt/state";
Dir::State::status "$here/apt/state/status";
Dir::Cache "$here/apt/cache";
Dir::Etc "$here/apt/etc";
EOF
export APT_CONFIG=$here/apt.conf
apt-get update -q
(cd arm64 && apt-get download python3.11-minimal libpython3.11-minimal libpython3.11-stdlib \
  libc6 libgcc-s1 libbz2-1.0 liblzma5 zlib1g libexpat1 libssl3 libcrypt1 libffi8 libuuid1 \
  libsqlite3-0 libreadline8 libtinfo6 libncursesw6)
unset APT_CONFIG
(cd amd64 && apt-get download qemu-user libcapstone4 liburing2)
for package in arm64/*.deb; do dpkg -x "$package" root; done
for package in amd64/*.deb; do dpkg -x "$package" host; done

wanted=$("${PYTHON:-python3}" -m pip list --format=freeze |
  grep -iE '^(msgspec|orjson|pyyaml|pydantic|pydantic.core|annotated.types|typing.extensions|typing.inspection)==')
# shellcheck disable=SC2086
"${PYTHON:-python3}" -m pip download -q --no-deps --only-binary=:all: -d wheels \
  --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
  --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none $wanted
for wheel in wheels/*.whl; do python3 -m zipfile -e "$wheel" site; done

cat > python <<EOF
#!/bin/sh
given=\$PYTHONPATH
unset PYTHONPATH
export LD_LIBRARY_PATH=$here/host/usr/lib/x86_64-linux-gnu
exec $here/host/usr/bin/qemu-aarch64 -L $here/root -E "PYTHONPATH=\$given:$here/site" \\
  -U LD_LIBRARY_PATH $here/root/usr/bin/python3.11 "\$@"
EOF
chmod +x python
./python -c 'import msgspec, orjson, platform, pydantic, yaml; print(platform.machine())'
