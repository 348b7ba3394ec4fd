/* Running a compiled program: the op loop and the row transforms. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"

void cpu_transform_row(const cpu_kernels *kernels, const bpdq_transform *transform, const float *input, int64_t width, float *out) {
  switch (transform->kind) {
    case BPDQ_TRANSFORM_NONE:
      if (out != input) memcpy(out, input, (size_t)width * sizeof *out);
      break;
    case BPDQ_TRANSFORM_RMS_NORM:
      kernels->scale_by(input, cpu_rms_factor(kernels, transform, input, width), transform->norm->vector, width, out);
      break;
    case BPDQ_TRANSFORM_SILU_GATE:
      kernels->silu_gate(input, input + width, width, out);
      break;
  }
}

float cpu_rms_factor(const cpu_kernels *kernels, const bpdq_transform *transform, const float *input, int64_t width) {
  return 1.0f / sqrtf(kernels->sum_squares(input, width) / (float)width + transform->epsilon);
}

typedef struct transform_job {
  const bpdq_executable *executable;
  const bpdq_op_transform *op;
} transform_job;

static void transform_task(void *context, int64_t row, int thread) {
  (void)thread;
  const transform_job *job = context;
  const bpdq_state *state = job->executable->state;
  const float *input = cpu_floats(state, job->op->input) + row * cpu_columns(state, job->op->input);
  float *output = cpu_floats(state, job->op->output) + row * cpu_columns(state, job->op->output);
  cpu_transform_row(job->executable->backend->kernels, &job->op->transform, input, job->op->width, output);
}

bpdq_status cpu_run(bpdq_executable *executable, const bpdq_run *run, bpdq_error *error) {
  BPDQ_TRY(bpdq_check_run(run, executable->max_tokens, executable->context, executable->sequences, error));
  for (size_t i = 0; i < executable->count; i++) {
    const bpdq_op *op = &executable->ops[i];
    switch (op->kind) {
      case BPDQ_OP_TRANSFORM:
        bpdq_pool_run(executable->backend->pool, run->tokens, transform_task, &(transform_job){executable, &op->transform});
        break;
      case BPDQ_OP_LINEAR:
        cpu_run_linear(executable, &op->linear, run);
        break;
      case BPDQ_OP_ROPE_CACHE:
        cpu_run_rope_cache(executable, &op->rope_cache, run);
        break;
      case BPDQ_OP_ATTENTION:
        cpu_run_attention(executable, &op->attention, run);
        break;
      case BPDQ_OP_TOP_K:
        cpu_run_top_k(executable, &op->top_k, run);
        break;
    }
  }
  return BPDQ_OK;
}
