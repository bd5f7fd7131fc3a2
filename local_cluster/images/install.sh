#!/bin/sh
# install.sh LOCK [OPTION...]: put exactly the packages of LOCK into /opt/venv of an image, byte
# code included. Both Dockerfiles use it. The installer, uv, is pinned by hash, lives in /tmp
# while this runs and never enters the image.
#
# /wheel-cache, where a build mounts it, is uv's cache. SSL_CERT_FILE, where a build gives it,
# holds the certificate authorities of the company's proxy.
set -eu

UV="uv==0.13.9 --hash=sha256:d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19"

lock="$1"
shift
if [ -n "${SSL_CERT_FILE:-}" ]; then
    export PIP_CERT="$SSL_CERT_FILE"
fi
if [ -w /wheel-cache ]; then
    export UV_CACHE_DIR=/wheel-cache
else
    export UV_NO_CACHE=1
fi
# copy: links into a mounted cache would break with it.
export UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
echo "$UV" > "$work/uv.lock"
python3 -m venv "$work"
"$work/bin/pip" install -q --no-cache-dir --disable-pip-version-check \
    --require-hashes --only-binary :all: -r "$work/uv.lock"

if [ ! -e /opt/venv ]; then
    "$work/bin/uv" venv -q --python "$(command -v python3)" /opt/venv
fi
# --no-deps: the lock is complete; what it does not name does not come in.
"$work/bin/uv" pip install -q --python /opt/venv/bin/python --compile-bytecode \
    --no-deps --require-hashes "$@" -r "$lock"
