# Sourced after common.sh.
# shellcheck shell=bash

# Each version of these tools lays code out and warns a little differently; the tree follows Debian 12's.
require_clang_tool() {
  local version
  version=$("$1" --version | sed -n 's/.*version \([0-9]*\)\..*/\1/p' | head -n 1)
  [ "$version" = 14 ] && return 0
  echo "the tree follows $1 14 of Debian 12, here is ${version:-none}"
  exit 77
}
