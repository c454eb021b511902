#!/bin/sh
# Installs what a build needs besides Rust, where it is missing: a C and C++ compiler with make, cmake and
# pkg-config for the libraries written in C, and libclang, with which RocksDB's bindings are made.
# Says what it does, asks for sudo where it is not root, and does nothing where all is present.
set -eu

if ! command -v cargo >/dev/null 2>&1; then
    echo "deps: cargo is missing. Install the Rust toolchain first (https://rustup.rs), 1.95 or later." >&2
    exit 1
fi

has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    ldconfig -p 2>/dev/null | grep -q 'libclang[-.]' && return 0
    ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1
}

# libclang needs its own headers (stddef.h and others), which come in a package of their own.
has_clang_headers() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    ls /usr/lib/llvm-*/lib/clang/*/include/stddef.h /usr/lib/clang/*/include/stddef.h >/dev/null 2>&1
}

missing=""
command -v cc >/dev/null 2>&1 || missing="$missing gcc"
command -v c++ >/dev/null 2>&1 || missing="$missing g++"
command -v make >/dev/null 2>&1 || missing="$missing make"
command -v cmake >/dev/null 2>&1 || missing="$missing cmake"
command -v pkg-config >/dev/null 2>&1 || missing="$missing pkg-config"
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
if ! has_libclang || ! has_clang_headers; then
    missing="$missing libclang"
fi
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "deps: missing:$missing. This system has no apt-get: install them with its own package manager." >&2
    exit 1
fi

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "deps: missing:$missing. Install them as root, or install sudo." >&2
        exit 1
    fi
    as_root="sudo"
    echo "deps: asking for root with sudo, to install system packages"
fi

echo "deps: installing:$missing"
$as_root apt-get update -q
packages=""
for name in $missing; do
    if [ "$name" = libclang ]; then
        # The newest libclang that this release of the distribution has; its version is part of its name.
        version=$(apt-cache search --names-only '^libclang1-[0-9]+$' | sed 's/^libclang1-\([0-9]*\) .*/\1/' | sort -n | tail -1)
        if [ -z "$version" ]; then
            echo "deps: no libclang package found: install one, and name its folder in LIBCLANG_PATH" >&2
            exit 1
        fi
        packages="$packages libclang1-$version libclang-common-$version-dev"
    else
        packages="$packages $name"
    fi
done
# shellcheck disable=SC2086 # a list of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages
