# Unpacks Debian packages of another suite or architecture into a folder, without touching the system's packages: apt gets a
# state of its own, and its sources are the system's with only the suite changed. Sourced after common.sh.
# shellcheck shell=bash

# Prints the system's Debian sources for $1 = suite as deb822 stanzas, keeping mirrors, components and keys.
# Only entries of exactly the system's suite count (no -updates or -security, and no third-party archives, which name other suites).
sources_for_suite() {
  local own file
  own=$(codename)
  for file in /etc/apt/sources.list.d/*.sources; do
    [ -e "$file" ] || continue
    awk -v own="$own" -v suite="$1" '
      function flush() { if (match_suite && deb) printf "%s\n", stanza; stanza = ""; match_suite = deb = 0 }
      /^[ \t]*#/ { next }
      /^[ \t]*$/ { flush(); next }
      tolower($1) == "suites:" { for (i = 2; i <= NF; i++) if ($i == own) match_suite = 1; stanza = stanza "Suites: " suite "\n"; next }
      tolower($1) == "types:" { for (i = 2; i <= NF; i++) if ($i == "deb") deb = 1; stanza = stanza "Types: deb\n"; next }
      { stanza = stanza $0 "\n" }
      END { flush() }' "$file"
  done
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -e "$file" ] || continue
    awk -v own="$own" -v suite="$1" '
      $1 != "deb" { next }
      { options = ""; rest = $0; sub(/^deb[ \t]+/, "", rest)
        if (match(rest, /^\[[^]]*\][ \t]*/)) { options = substr(rest, 2, index(rest, "]") - 2); rest = substr(rest, RLENGTH + 1) }
        n = split(rest, word, /[ \t]+/)
        if (word[2] != own) next
        printf "Types: deb\nURIs: %s\nSuites: %s\nComponents:", word[1], suite
        for (i = 3; i <= n; i++) printf " %s", word[i]
        printf "\n"
        if (match(options, /signed-by=[^ ]+/)) printf "Signed-By: %s\n", substr(options, RSTART + 10, RLENGTH - 10)
        printf "\n" }' "$file"
  done
}

# unpack_packages FOLDER SUITE ARCHITECTURE PACKAGE...: the packages with everything they depend on, in FOLDER/root.
unpack_packages() {
  local folder=$1 suite=$2 architecture=$3
  shift 3
  local apt=$folder/apt
  rm -rf "$folder"
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$folder/root"
  : >"$apt/status" # an empty system: every dependency is fetched, libc included
  sources_for_suite "$suite" >"$apt/suite.sources"
  [ -s "$apt/suite.sources" ] || { say "  no Debian source for '$(codename)' under /etc/apt"; return 1; }
  local options=(
    -o "Dir::Etc::sourcelist=$apt/suite.sources" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State=$apt" -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
    -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture"
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30)
  quietly apt-get "${options[@]}" -q update || return 1
  quietly apt-get "${options[@]}" -q -y --no-install-recommends --download-only install "$@" || return 1
  # Debian 13's packages assume /lib -> usr/lib; so does this root, also for packages that still name /lib.
  local name package
  for name in bin sbin lib lib64; do
    mkdir -p "$folder/root/usr/$name"
    ln -s "usr/$name" "$folder/root/$name"
  done
  for package in "$apt"/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$folder/root" --keep-directory-symlink --no-same-owner || return 1
  done
  rm -rf "$apt"
}
