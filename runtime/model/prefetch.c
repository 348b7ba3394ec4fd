#include "model/prefetch.h"

#define STEP_BYTES ((uint64_t)16 << 20) /* so that a stop is answered soon, from a slow disk too */

static void fetch_tensor(bpdq_prefetch *prefetch, const bpdq_stored_tensor *tensor) {
  for (uint64_t done = 0; tensor && done < tensor->bytes && !atomic_load(&prefetch->stop); done += STEP_BYTES)
    bpdq_safetensors_will_need(prefetch->checkpoint->tensors, tensor, done, STEP_BYTES);
}

static void fetch_linear(bpdq_prefetch *prefetch, const bpdq_linear_source *linear) {
  fetch_tensor(prefetch, linear->weight);
  fetch_tensor(prefetch, linear->coefficients);
  fetch_tensor(prefetch, linear->bits);
}

static void fetch_all(void *argument) {
  bpdq_prefetch *prefetch = argument;
  const bpdq_checkpoint *checkpoint = prefetch->checkpoint;
  for (int64_t i = 0; i < checkpoint->config.layers; i++) {
    const bpdq_layer_source *layer = &checkpoint->layers[i];
    const bpdq_linear_source *linears[] = {&layer->q, &layer->k, &layer->v, &layer->o, &layer->gate, &layer->up, &layer->down};
    for (size_t j = 0; j < sizeof linears / sizeof *linears; j++) fetch_linear(prefetch, linears[j]);
  }
  fetch_linear(prefetch, &checkpoint->head);
}

void bpdq_prefetch_start(bpdq_prefetch *prefetch, const bpdq_checkpoint *checkpoint) {
  prefetch->checkpoint = checkpoint;
  atomic_init(&prefetch->stop, false);
  prefetch->thread = bpdq_thread_start(fetch_all, prefetch);
}

void bpdq_prefetch_stop(bpdq_prefetch *prefetch) {
  atomic_store(&prefetch->stop, true);
  bpdq_thread_join(prefetch->thread);
  prefetch->thread = NULL;
}
