#!/bin/sh
# Shows at the level of packets that a server in a closed federation sends nothing to a server that is not listed, and does not look up
# its name: three servers, each in a network namespace of its own, and a wire-tap on the closed one's cable.
#
# Needs Linux, root (for the namespaces; nothing outside of them is changed), iproute2 and Python 3. The server is HOMESERVER_BINARY, or
# the one built in the target folder.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${CARGO_TARGET_DIR:=${XDG_CACHE_HOME:-$HOME/.cache}/chappe/target}"
binary="${HOMESERVER_BINARY:-$CARGO_TARGET_DIR/debug/chappe}"

if [ "${1:-}" != inside ]; then
    for need in unshare ip python3; do
        if ! command -v "$need" >/dev/null 2>&1; then
            echo "!! $need is missing: that nothing reaches unlisted servers was NOT tested" >&2
            exit 1
        fi
    done
    if [ "$(id -u)" != 0 ] || ! unshare --net --mount true 2>/dev/null; then
        echo "!! SKIPPED: this needs root and the right to make network namespaces." >&2
        echo "!! That nothing reaches unlisted servers was NOT tested at the level of packets." >&2
        exit 0
    fi
    if ! [ -x "$binary" ]; then
        echo "$binary is not there: build the server first, or set HOMESERVER_BINARY" >&2
        exit 1
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    HOMESERVER_BINARY="$binary" WORK="$work" unshare --net --mount --pid --fork --mount-proc --kill-child sh "$0" inside
    exit 0
fi

# In namespaces of our own from here on: they end with this process, and everything in them.
mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
echo "nameserver 10.77.0.1" >"$WORK/resolv.conf"
mount --bind "$WORK/resolv.conf" /etc/resolv.conf
ip link set lo up
ip link add wire type bridge
ip address add 10.77.0.1/24 dev wire
ip link set wire up
number=10
for name in closed listed unlisted; do
    ip netns add "$name"
    ip link add "$name" type veth peer name eth0 netns "$name"
    ip link set "$name" master wire up
    ip -n "$name" link set lo up
    ip -n "$name" address add "10.77.0.$number/24" dev eth0
    ip -n "$name" link set eth0 up
    number=$((number + 10))
done
python3 "$here/scenario.py" "$HOMESERVER_BINARY" "$WORK"
