# Shared by the developer scripts: where things are, and how they report. Sourced, never run.
# shellcheck shell=bash
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$project/build

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "$(basename "$0"): error: $*"
  exit 1
}

# Runs a command quietly; its output is shown only when it fails.
quietly() {
  local log status=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 || status=$?
  [ "$status" = 0 ] || tail -n 40 "$log" >&2
  rm -f "$log"
  return "$status"
}

# Runs a command as root, through sudo where needed.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "needs root to run: $* (run this as root, or install sudo)"
  fi
}

# The system's own release: VERSION_CODENAME of /etc/os-release ("bookworm").
codename() { (. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}"); }
