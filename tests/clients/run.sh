#!/bin/sh
# Runs clients that others wrote, unmodified, against a server that is started for them.
#
#   run.sh                  all of them
#   run.sh nio|js|web|mail  one of them
#
# The server is HOMESERVER_BINARY, or the one built in the target folder. What the clients need is installed below the
# target folder, as the pinned lists beside this file say. Needs Python 3 with venv for matrix-nio, and Node.js with npm
# (any version) for matrix-js-sdk, the same and Chromium for Hydrogen: one that is missing is a failure.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${CARGO_TARGET_DIR:=${XDG_CACHE_HOME:-$HOME/.cache}/chappe/target}"
binary="${HOMESERVER_BINARY:-$CARGO_TARGET_DIR/debug/chappe}"
installed="$CARGO_TARGET_DIR/clients"
[ $# -gt 0 ] || set -- nio js web mail

if ! [ -x "$binary" ]; then
    echo "$binary is not there: build the server first, or set HOMESERVER_BINARY" >&2
    exit 1
fi

install_python() {
    if ! command -v python3 >/dev/null 2>&1; then
        echo "Python 3 is missing: the tests of $1 cannot run" >&2
        return 1
    fi
    if ! cmp -s "$here/$1/requirements.txt" "$installed/$1/requirements.txt"; then
        rm -rf "$installed/$1"
        python3 -m venv "$installed/$1" || return 1
        "$installed/$1/bin/pip" install --quiet --requirement "$here/$1/requirements.txt" || return 1
        cp "$here/$1/requirements.txt" "$installed/$1/requirements.txt"
    fi
}
install_nio() { install_python nio; }
install_mail() { install_python mail; }

install_js() {
    if ! command -v node >/dev/null 2>&1 || ! command -v npm >/dev/null 2>&1; then
        echo "Node.js or npm is missing: the tests with matrix-js-sdk cannot run" >&2
        return 1
    fi
    mkdir -p "$installed/js"
    if ! cmp -s "$here/js/package-lock.json" "$installed/js/installed.json"; then
        cp "$here/js/package.json" "$here/js/package-lock.json" "$installed/js/"
        (cd "$installed/js" && npm ci --no-audit --no-fund --loglevel=error) || return 1
        cp "$here/js/package-lock.json" "$installed/js/installed.json"
    fi
    # Modules are looked for beside the script.
    cp "$here/js/client.mjs" "$installed/js/client.mjs"
}

install_web() {
    if ! command -v node >/dev/null 2>&1 || ! command -v npm >/dev/null 2>&1; then
        echo "Node.js or npm is missing: the test with Hydrogen cannot run" >&2
        return 1
    fi
    browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
        echo "Chromium is missing: the test with Hydrogen cannot run" >&2
        return 1
    }
    mkdir -p "$installed/web"
    if ! cmp -s "$here/web/package-lock.json" "$installed/web/installed.json"; then
        cp "$here/web/package.json" "$here/web/package-lock.json" "$installed/web/"
        (cd "$installed/web" && npm ci --no-audit --no-fund --loglevel=error) || return 1
        cp "$here/web/package-lock.json" "$installed/web/installed.json"
    fi
    cp "$here/web/client.mjs" "$here/web/page.mjs" "$here/web/index.html" "$installed/web/"
}

run_nio() { "$installed/nio/bin/python" "$here/nio/client.py" "$1"; }
# With the Node.js that the list pins, since the client asks for a newer one than systems have.
run_js() { "$installed/js/node_modules/.bin/node" "$installed/js/client.mjs" "$1"; }
run_mail() { "$installed/mail/bin/python" "$here/mail/client.py" "$1" "$mail_port"; }
run_web() { node "$installed/web/client.mjs" "$1" "$browser"; }

data=$(mktemp -d)
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    rm -rf "$data"
}
trap finish EXIT
trap 'exit 130' INT TERM

socket_port() {
    # The first port from this one on that nothing listens on.
    port=$1
    while command -v curl >/dev/null 2>&1 && curl --silent --output /dev/null "http://127.0.0.1:$port/"; do
        port=$((port + 1))
    done
    echo "$port"
}

port=$(socket_port 18008)
mail_port=$(socket_port 18025)
url="http://127.0.0.1:$port"
cat >"$data/conduit.toml" <<CONFIGURATION
server_name = "clients.test"
data_dir = "$data/data"

[listen]
client = ["127.0.0.1:$port"]
federation = []

[federation]
enabled = false

[registration]
mode = "open"

[rate_limits]
enabled = false

[mail]
host = "127.0.0.1"
port = $mail_port
tls = "off"
from = "Clients <server@clients.test>"
public_url = "$url"
CONFIGURATION
"$binary" --config "$data/conduit.toml" serve >"$data/server.log" 2>&1 &
server=$!
for _ in $(seq 300); do
    if ! kill -0 "$server" 2>/dev/null; then
        break
    fi
    "$binary" health --url "$url" >/dev/null 2>&1 && break
    sleep 0.2
done
if ! "$binary" health --url "$url" >/dev/null; then
    echo "the server did not start:" >&2
    tail -n 40 "$data/server.log" >&2
    exit 1
fi

failed=
for client in "$@"; do
    echo "== $client"
    if ! "install_$client" || ! "run_$client" "$url"; then
        failed="$failed $client"
        tail -n 20 "$data/server.log" >&2
    fi
done
if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    exit 1
fi
echo "all clients are content"
