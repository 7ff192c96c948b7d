#!/bin/sh
# Make or renew the environment .venv: every package at the version that constraints.txt names.
#
# Starts from a Debian or Ubuntu with Python >= 3.11. Where the user is root, python3-venv and libusb-1.0-0 (which
# Open3D loads) come from apt; elsewhere pip carries the library, and a missing python3-venv is named. When the
# environment is up to date this takes no time.
set -eu
cd "$(dirname "$0")/.."
stamp=.venv/.up-to-date

fail() { printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2; exit 3; }

find_python() {
    for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail 'no Python >= 3.11 was found' 'install one (apt-get install python3 on Debian 12, Ubuntu 24.04 or newer) or name one: make setup PYTHON=/path/to/python3.11'
}

apt_install() {
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 1
    echo "installing $* with apt" >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$@" >/dev/null 2>&1 && return
    apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$@" >/dev/null
}

# What decides whether the environment is up to date: the two files that name packages, and where it lies.
wanted="$(cat pyproject.toml constraints.txt tools/setup.sh | cksum) $PWD"
[ -x .venv/bin/python ] && [ "$(cat $stamp 2>/dev/null)" = "$wanted" ] && exit 0

python=$(find_python)
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    apt_install "python$version-venv" || apt_install python3-venv ||
        fail "$python cannot make virtual environments" "as root: apt-get install python$version-venv"
fi

extras=dev
if ! "$python" -c 'import ctypes; ctypes.CDLL("libusb-1.0.so.0")' 2>/dev/null; then
    apt_install libusb-1.0-0 || extras=dev,libusb  # Open3D loads it
fi

echo "making .venv with $python (some minutes and 4 GB; more where torch comes with CUDA)" >&2
[ -x .venv/bin/python ] && [ -x .venv/bin/pip ] || "$python" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
.venv/bin/python -m inrflow_core.geometry.open3d_import
printf '%s' "$wanted" > $stamp
