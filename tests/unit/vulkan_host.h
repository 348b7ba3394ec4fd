/* A program that owns a Vulkan device, for tests that hand one over: its own instance, device and queue. What the device says about itself
 * can be changed on the way, so that devices are tested that nobody has here. Include after cmocka.h. */
#ifndef BPDQ_TEST_VULKAN_HOST_H
#define BPDQ_TEST_VULKAN_HOST_H

#include <string.h>

#include "backend/registry.h"
#include "backend/vulkan/functions.h"

typedef struct host {
  PFN_vkGetInstanceProcAddr get;
  bpdq_vulkan_instance_functions functions;
  VkInstance instance;
  VkPhysicalDevice physical;
  VkDevice device;
  VkQueue queue;
  PFN_vkDestroyDevice destroy_device;
  PFN_vkDeviceWaitIdle wait_idle;
  int depth, locks; /* of the queue lock */
} host;

static inline void lock_queue(void *user) {
  host *h = user;
  assert_int_equal(h->depth, 0);
  h->depth++;
  h->locks++;
}

static inline void unlock_queue(void *user) {
  host *h = user;
  assert_int_equal(h->depth, 1);
  h->depth--;
}

static inline void start_host(host *h, const void *features) {
  bpdq_error error = {0};
  memset(h, 0, sizeof *h);
  if (bpdq_vulkan_find_loader(&h->get, &error) != BPDQ_OK) fail_msg("%s", error.message);
  PFN_vkCreateInstance create = (PFN_vkCreateInstance)h->get(NULL, "vkCreateInstance");
  VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_3};
  VkInstanceCreateInfo instance = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application};
  assert_int_equal(create(&instance, NULL, &h->instance), VK_SUCCESS);
  assert_int_equal(bpdq_vulkan_load_instance(&h->functions, h->get, h->instance, &error), BPDQ_OK);
  uint32_t count = 1;
  assert_true(h->functions.EnumeratePhysicalDevices(h->instance, &count, &h->physical) >= 0);
  if (count != 1) fail_msg("the Vulkan loader lists no device: install a driver (mesa-vulkan-drivers)");
  float priority = 1;
  VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueCount = 1, .pQueuePriorities = &priority};
  VkDeviceCreateInfo device = {
      .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .pNext = features, .queueCreateInfoCount = 1, .pQueueCreateInfos = &queue};
  assert_int_equal(h->functions.CreateDevice(h->physical, &device, NULL, &h->device), VK_SUCCESS);
  PFN_vkGetDeviceQueue get_queue = (PFN_vkGetDeviceQueue)h->functions.GetDeviceProcAddr(h->device, "vkGetDeviceQueue");
  h->destroy_device = (PFN_vkDestroyDevice)h->functions.GetDeviceProcAddr(h->device, "vkDestroyDevice");
  h->wait_idle = (PFN_vkDeviceWaitIdle)h->functions.GetDeviceProcAddr(h->device, "vkDeviceWaitIdle");
  get_queue(h->device, 0, 0, &h->queue);
}

static inline void stop_host(host *h) {
  assert_int_equal(h->wait_idle(h->device), VK_SUCCESS); /* the runtime left it alive */
  h->destroy_device(h->device, NULL);
  h->functions.DestroyInstance(h->instance, NULL);
}

static inline bpdq_vulkan_import import_of(host *h, const void *features) {
  return (bpdq_vulkan_import){.get_instance_proc_addr = (void *)h->get,
                              .instance = h->instance,
                              .physical_device = h->physical,
                              .device = h->device,
                              .queue = h->queue,
                              .queue_family = 0,
                              .api_version = VK_API_VERSION_1_3,
                              .enabled_features = features,
                              .lock_queue = lock_queue,
                              .unlock_queue = unlock_queue,
                              .user = h};
}

#endif
