#!/usr/bin/env bash
# check.sh BUILD-FOLDER C-COMPILER: installs the build into an empty folder and builds the consumer against it, through the CMake
# package and through pkg-config; both programs must continue a text alike. Only the one header may have been installed.
set -euo pipefail
build=$1
compiler=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --prefix "$work/prefix" >"$work/log" || { cat "$work/log"; exit 1; }
headers=$(cd "$work/prefix/include" && find . -type f)
[ "$headers" = ./bpdq.h ] || { echo "installed headers: $headers"; exit 1; }

# The flags say what a plain user of the package gets; a sanitized library needs its runtime linked in.
flags=${CONSUMER_FLAGS:-}
cmake -S "$here" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_C_COMPILER="$compiler" -DCMAKE_C_FLAGS="$flags" >"$work/log" 2>&1 &&
  cmake --build "$work/build" >>"$work/log" 2>&1 || { cat "$work/log"; exit 1; }

pc=$(dirname "$(find "$work/prefix" -name bpdq.pc)")
export PKG_CONFIG_PATH=$pc
# shellcheck disable=SC2046,SC2086 # the flags are lists of words
"$compiler" $flags "$here/main.c" -o "$work/consumer" $(pkg-config --cflags bpdq) $(pkg-config --libs --static bpdq)

first=$("$work/build/consumer" "$BPDQ_SHARED/models/classics-12m" "Once upon a time")
second=$("$work/consumer" "$BPDQ_SHARED/models/classics-12m" "Once upon a time")
[ -n "$first" ] && [ "$first" = "$second" ] || { printf 'the programs differ:\n%s\n%s\n' "$first" "$second"; exit 1; }

# The README shows this very program.
readme=$BPDQ_SOURCE_DIR/README.md
if grep -q '^```c$' "$readme" 2>/dev/null; then
  sed -n '/^```c$/,/^```$/p' "$readme" | sed '1d;/^```$/,$d' | diff - "$here/main.c" || { echo "README.md's example differs from tests/consumer/main.c"; exit 1; }
fi
