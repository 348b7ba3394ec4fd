/* What the streams of all algebras share. */
#include "capture.h"

bool bpdq_stage_closes(bpdq_stage stage) { return stage == BPDQ_STAGE_O || stage == BPDQ_STAGE_DOWN; }

bool bpdq_streams_dense(const bpdq_streams_desc *desc) { return desc->dense_target || desc->residual_target; }

bpdq_status bpdq_streams_create(bpdq_algebra *algebra, const bpdq_streams_desc *desc, bpdq_streams **streams, bpdq_error *error) {
  bpdq_streams_desc all = *desc;
  all.first_window = 0;
  all.window_count = desc->calibration->count;
  return desc->backend ? bpdq_host_streams_create(algebra, &all, streams, error) : algebra->streams_create(algebra, &all, streams, error);
}

void bpdq_streams_destroy(bpdq_streams *streams) {
  if (streams) streams->destroy(streams);
}

bpdq_statistics_desc bpdq_streams_statistics(const bpdq_streams *streams, bpdq_stage stage, const char *name, int64_t rows,
                                             int64_t columns) {
  bpdq_statistics_desc desc = {.name = name, .columns = columns};
  if (!bpdq_streams_dense(&streams->desc)) return desc;
  desc.cross = !bpdq_stage_closes(stage) && streams->desc.dense_target;
  desc.residual_rows = bpdq_stage_closes(stage) ? rows : 0;
  desc.whole_target = bpdq_stage_closes(stage) && streams->desc.dense_target;
  return desc;
}

bpdq_status bpdq_streams_replay(bpdq_streams *streams, const bpdq_block *dense, const bpdq_block *quantized, bpdq_error *error) {
  for (bpdq_stage stage = BPDQ_STAGE_O; stage < BPDQ_STAGES; stage++)
    BPDQ_TRY(streams->capture(streams, stage, dense, quantized, NULL, error));
  return streams->finish_block(streams, quantized, error);
}

int64_t bpdq_streams_tokens(const bpdq_streams *streams) { return streams->desc.window_count * streams->desc.calibration->length; }

bpdq_status bpdq_streams_check_cancelled(const bpdq_streams *streams, bpdq_error *error) {
  const volatile int *cancel = streams->desc.cancel;
  return cancel && *cancel ? bpdq_fail(error, BPDQ_ERROR_CANCELLED, "quantize: interrupted") : BPDQ_OK;
}
