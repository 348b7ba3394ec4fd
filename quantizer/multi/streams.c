/* Residual streams whose calibration windows are shared among the parts. */
#include <stdlib.h>

#include "capture.h"
#include "core/platform.h"
#include "multi/multi.h"

typedef struct multi_streams {
  bpdq_streams base;
  multi_algebra *multi;
  bpdq_streams *parts[BPDQ_MULTI_MOST];
  int64_t first_window[BPDQ_MULTI_MOST + 1]; /* part i has windows first_window[i] .. first_window[i + 1] - 1 */
  int count;                                 /* parts that have windows */
} multi_streams;

typedef struct streams_call {
  multi_streams *streams;
  bpdq_stage stage;
  const bpdq_block *dense, *quantized;
  const float *norm;
  bpdq_statistics *statistics;
} streams_call;

/* The parts' clocks run side by side: the slowest counts. */
static bpdq_status run(streams_call *call, bpdq_multi_task task, bpdq_error *error) {
  multi_streams *s = call->streams;
  bpdq_status status = bpdq_multi_run(s->multi, s->count, task, call, error);
  for (int i = 0; i < s->count; i++) {
    const bpdq_streams *part = s->parts[i];
    if (part && part->forward_seconds > s->base.forward_seconds) s->base.forward_seconds = part->forward_seconds;
    if (part && part->statistics_seconds > s->base.statistics_seconds) s->base.statistics_seconds = part->statistics_seconds;
  }
  return status;
}

static bpdq_statistics *statistics_of(const streams_call *c, int part) { return c->statistics ? c->statistics->parts[part] : NULL; }

static bpdq_status capture_part(void *context, int part, bpdq_error *error) {
  const streams_call *c = context;
  bpdq_streams *streams = c->streams->parts[part];
  return streams->capture(streams, c->stage, c->dense, c->quantized, statistics_of(c, part), error);
}

static bpdq_status capture(bpdq_streams *streams, bpdq_stage stage, const bpdq_block *dense, const bpdq_block *quantized,
                           bpdq_statistics *statistics, bpdq_error *error) {
  streams_call call = {(multi_streams *)streams, stage, dense, quantized, NULL, statistics};
  return run(&call, capture_part, error);
}

static bpdq_status capture_head_part(void *context, int part, bpdq_error *error) {
  const streams_call *c = context;
  bpdq_streams *streams = c->streams->parts[part];
  return streams->capture_head(streams, c->norm, statistics_of(c, part), error);
}

static bpdq_status capture_head(bpdq_streams *streams, const float *norm, bpdq_statistics *statistics, bpdq_error *error) {
  streams_call call = {.streams = (multi_streams *)streams, .norm = norm, .statistics = statistics};
  return run(&call, capture_head_part, error);
}

static bpdq_status finish_part(void *context, int part, bpdq_error *error) {
  const streams_call *c = context;
  bpdq_streams *streams = c->streams->parts[part];
  return streams->finish_block(streams, c->quantized, error);
}

static bpdq_status finish_block(bpdq_streams *streams, const bpdq_block *quantized, bpdq_error *error) {
  streams_call call = {.streams = (multi_streams *)streams, .quantized = quantized};
  return run(&call, finish_part, error);
}

static bpdq_status read_window(bpdq_streams *streams, int64_t window, float *quantized, float *dense, bpdq_error *error) {
  multi_streams *s = (multi_streams *)streams;
  int part = 0;
  while (part + 1 < s->count && window >= s->first_window[part + 1]) part++;
  return s->parts[part]->read(s->parts[part], window - s->first_window[part], quantized, dense, error);
}

static void destroy(bpdq_streams *streams) {
  multi_streams *s = (multi_streams *)streams;
  for (int i = 0; i < s->count; i++) bpdq_streams_destroy(s->parts[i]);
  free(s);
}

static bpdq_status create_part(void *context, int part, bpdq_error *error) {
  const streams_call *c = context;
  multi_streams *s = c->streams;
  bpdq_algebra *algebra = s->multi->parts[part];
  bpdq_streams_desc desc = s->base.desc;
  desc.threads = bpdq_multi_threads(desc.threads ? desc.threads : bpdq_cpu_count(), s->count, part);
  desc.first_window += s->first_window[part];
  desc.window_count = s->first_window[part + 1] - s->first_window[part];
  return algebra->streams_create(algebra, &desc, &s->parts[part], error);
}

bpdq_status bpdq_multi_streams_create(bpdq_algebra *algebra, const bpdq_streams_desc *desc, bpdq_streams **streams, bpdq_error *error) {
  *streams = NULL;
  multi_streams *s = calloc(1, sizeof *s);
  if (!s) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "out of host memory");
  s->base = (bpdq_streams){.desc = *desc,
                           .destroy = destroy,
                           .capture = capture,
                           .capture_head = capture_head,
                           .finish_block = finish_block,
                           .read = read_window};
  s->multi = (multi_algebra *)algebra;
  s->count = desc->window_count < s->multi->count ? (int)desc->window_count : s->multi->count;
  for (int i = 0; i <= s->count && s->count; i++) s->first_window[i] = desc->window_count * i / s->count;
  streams_call call = {.streams = s};
  bpdq_status status = run(&call, create_part, error);
  if (status != BPDQ_OK) {
    destroy(&s->base);
    return status;
  }
  *streams = &s->base;
  return BPDQ_OK;
}
