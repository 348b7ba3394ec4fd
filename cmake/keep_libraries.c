/* Linked into every program of a sanitizer build. The Vulkan loader unloads drivers before the program ends, and LeakSanitizer then reports
 * what a driver keeps for life in its global variables (Mesa 22.3.6: a list made once by lavapipe), with no names, since they left with the
 * driver. So libraries stay. */
int dlclose(void *library);

__attribute__((visibility("default"))) int dlclose(void *library) {
  (void)library;
  return 0;
}
