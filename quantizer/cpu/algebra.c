/* The CPU back end: its table of functions, and OpenBLAS kept to one thread per task. */
#include <cblas.h>

#include "capture.h"
#include "core/checked.h"
#include "cpu/cpu_algebra.h"

static void destroy(bpdq_algebra *algebra) {
  if (!algebra) return;
  bpdq_cpu_algebra *cpu = (bpdq_cpu_algebra *)algebra;
  bpdq_pool_destroy(cpu->pool);
  free(cpu);
}

static int64_t weights(const bpdq_work *work) { return work->rows * work->inputs->columns; }

bpdq_status bpdq_cpu_algebra_create(int threads, bpdq_algebra **algebra, bpdq_error *error) {
  *algebra = NULL;
  bpdq_cpu_algebra *cpu = calloc(1, sizeof *cpu);
  if (!cpu) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "quantizer: out of memory");
  bpdq_status status = bpdq_pool_create(threads, &cpu->pool, error);
  if (status != BPDQ_OK) {
    free(cpu);
    return status;
  }
  cpu->threads = bpdq_pool_threads(cpu->pool);
  cpu->base = (bpdq_algebra){
      .name = "cpu",
      .destroy = destroy,
      .streams_create = bpdq_host_streams_create,
      .statistics_create = bpdq_cpu_statistics_create,
      .statistics_destroy = bpdq_cpu_statistics_destroy,
      .statistics_add = bpdq_cpu_statistics_add,
      .statistics_set = bpdq_cpu_statistics_set,
      .statistics_finish = bpdq_cpu_statistics_finish,
      .statistics_read = bpdq_cpu_statistics_read,
      .statistics_merge = bpdq_cpu_statistics_merge,
      .statistics_copy = bpdq_cpu_statistics_copy,
      .inputs_create = bpdq_cpu_inputs_create,
      .inputs_destroy = bpdq_cpu_inputs_destroy,
      .work_create = bpdq_cpu_work_create,
      .work_destroy = bpdq_cpu_work_destroy,
      .weights = weights,
      .uniform = bpdq_cpu_uniform,
      .walk = bpdq_cpu_walk,
      .sweep = bpdq_cpu_sweep,
      .refit = bpdq_cpu_refit,
      .keep_best = bpdq_cpu_keep_best,
      .restore_best = bpdq_cpu_restore_best,
      .objective = bpdq_cpu_objective,
      .result = bpdq_cpu_result,
  };
  openblas_set_num_threads(1);
  *algebra = &cpu->base;
  return BPDQ_OK;
}
