#!/bin/sh
# Runs the public Complement suite against the image, and keeps the result of every test in results.tsv.
#
#   COMPLEMENT_DIR=path run.sh [PACKAGE...]
#
# COMPLEMENT_DIR is a checkout of https://github.com/matrix-org/complement. Needs Go and a running Docker engine.
# A PACKAGE is a folder below tests/, such as ./tests/csapi; all of them by default.
# Packages run one after another: each starts a mock server that writes its certificate to the same place. The suite's
# own time-outs are short, so let nothing else run on the machine.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${COMPLEMENT_DIR:?names a checkout of github.com/matrix-org/complement}"

export COMPLEMENT_BASE_IMAGE="${COMPLEMENT_IMAGE:-chappe-complement}"
export COMPLEMENT_ENABLE_DIRTY_RUNS="${COMPLEMENT_ENABLE_DIRTY_RUNS:-1}"
docker image inspect "$COMPLEMENT_BASE_IMAGE" >/dev/null

log="${COMPLEMENT_LOG:-${TMPDIR:-/tmp}/chappe-complement.jsonl}"
: >"$log"
cd "$COMPLEMENT_DIR"
[ $# -gt 0 ] || set -- $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./tests/...)
for package in "$@"; do
    echo "== $package"
    # Failing tests are results, and not a reason to stop.
    go test -p 1 -parallel 2 -timeout 60m -count 1 -json "$package" >>"$log" || true
done
cd "$here"
go run summarise.go "$log" results.tsv
echo "the whole output is in $log"
