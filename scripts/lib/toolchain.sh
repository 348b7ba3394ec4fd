# A glslc, Vulkan headers and volk that know cooperative matrices and integer dot products, on systems whose own are too old
# (Debian 12: glslc 2023.2, headers 1.3.239). Sourced after unpack-packages.sh.
# shellcheck shell=bash

newer_suite=trixie

# Whether the system's own glslc and headers will do: the probe shader and a header of at least 1.3.300.
system_shader_tools_suffice() {
  local header=/usr/include/vulkan/vulkan_core.h version
  command -v glslc >/dev/null && [ -e "$header" ] && [ -e /usr/include/volk.c ] || return 1
  version=$(awk '$2 == "VK_HEADER_VERSION" { print $3 }' "$header")
  [ "${version:-0}" -ge 300 ] || grep -q 'VK_HEADER_VERSION_COMPLETE.*1, 4' "$header" || return 1
  glslc --target-env=vulkan1.3 -o /dev/null "$project/cmake/probes/cooperative_matrix.comp" 2>/dev/null
}

# The shared libraries come along and run through their own loader: the system's libc is older than they need.
write_glslc_wrapper() {
  local folder=$1 loader
  loader=$(cd "$folder/root/usr" && find lib lib64 -name 'ld-linux*.so*' | head -n 1)
  [ -n "$loader" ] && [ -e "$folder/root/usr/bin/glslc" ] || return 1
  mkdir -p "$folder/bin"
  cat >"$folder/bin/glslc" <<SCRIPT
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/../root
exec "\$root/usr/$loader" --library-path "\$(echo "\$root"/usr/lib/*-linux-gnu*)" "\$root/usr/bin/glslc" "\$@"
SCRIPT
  chmod +x "$folder/bin/glslc"
}

# Fetches them into BUILD/toolchain unless they are there. Without them the build leaves the newer shader variants out.
provide_shader_tools() {
  local folder=$build/toolchain
  if system_shader_tools_suffice; then return 0; fi
  if [ -x "$folder/bin/glslc" ] && "$folder/bin/glslc" --version >/dev/null 2>&1; then return 0; fi
  say "setup: fetching a newer glslc, Vulkan headers and volk ($newer_suite) into ${folder#"$project"/}"
  if unpack_packages "$folder.partial" "$newer_suite" "$(dpkg --print-architecture)" glslc libvulkan-dev libvulkan-volk-dev &&
    write_glslc_wrapper "$folder.partial" && "$folder.partial/bin/glslc" --version >/dev/null; then
    rm -rf "$folder"
    mv "$folder.partial" "$folder"
  else
    rm -rf "$folder.partial"
    say "setup: could not get them: shaders with cooperative matrices and integer dot are left out"
  fi
}
