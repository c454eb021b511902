#!/bin/sh
# Builds the image chappe-complement out of nothing but this repository's binary and the libraries it needs.
#
#   complement/build.sh              builds the release binary first
#   CHAPPE_BINARY=path build.sh      takes that binary
#   COMPLEMENT_IMAGE=name build.sh   names the image
set -eu
cd "$(dirname "$0")/.."

image="${COMPLEMENT_IMAGE:-chappe-complement}"
if [ -z "${CHAPPE_BINARY:-}" ]; then
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/chappe/target}"
    cargo build --release --locked -p chappe-server
    CHAPPE_BINARY="$CARGO_TARGET_DIR/release/chappe"
fi

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
root="$context/root"
mkdir -p "$root/etc/chappe" "$root/etc/ssl/certs" "$root/tmp" "$root/data"
cp "$CHAPPE_BINARY" "$root/chappe"
command -v strip >/dev/null 2>&1 && strip --strip-debug "$root/chappe"
cp complement/conduit.toml "$root/etc/chappe/conduit.toml"
cp complement/Dockerfile "$context/Dockerfile"

# The loader and every shared library, each where the binary looks for it.
ldd "$CHAPPE_BINARY" | grep -o '/[^ ]*' | sort -u | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done

# Names are looked up in the hosts file the engine writes, then in DNS.
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"

docker build -q -t "$image" "$context"
echo "built the image $image"
