/* The forward pass of decoder blocks on a backend of the runtime, in the steps between which calibration looks at the inputs of the
 * linears. Weights are dense f32; a program holds those of its steps on the backend while it lives.
 *
 * Tokens pass through in runs of up to `rows` rows of windows of `length` tokens: several whole windows, or a part of one, whose earlier
 * parts went before. What a row gives does not depend on the rows beside it. */
#ifndef BPDQ_QUANTIZER_FORWARD_H
#define BPDQ_QUANTIZER_FORWARD_H

#include "backend/backend.h"
#include "block.h"

/* Activations that the host can write and read, f32 row-major, a row per token of the run. */
typedef enum bpdq_activation {
  BPDQ_HIDDEN, /* the residual stream x [hidden] */
  BPDQ_NORMED, /* rms_norm(x) [hidden] */
  BPDQ_HEADS,  /* the input of o_proj [heads * head_dim] */
  BPDQ_GATED,  /* the input of down_proj [intermediate] */
  BPDQ_OUTPUT, /* of o_proj or down_proj alone [hidden] */
  BPDQ_LOGITS, /* [vocab], of up to BPDQ_FORWARD_HEAD_ROWS rows; only in a forward that was made with `head` */
  BPDQ_ACTIVATIONS_READABLE
} bpdq_activation;

typedef struct bpdq_forward_desc {
  const char *backend; /* "cpu", "vulkan", "cuda"; NULL: cpu */
  int device;          /* of that backend, or -1: its best */
  uint64_t memory_cap; /* bytes of the device's memory; 0: none */
  int threads;         /* 0: one per core */
  const bpdq_config *config;
  int64_t length;      /* tokens of a window */
  int64_t most_tokens; /* of all windows: more rows than that are not needed */
  bool head;           /* logits are wanted */
  const bpdq_log *log; /* may be NULL */
} bpdq_forward_desc;

typedef struct bpdq_forward {
  bpdq_forward_desc desc;
  bpdq_backend *backend;
  char choice[256]; /* the device, for logs */
  int64_t rows;     /* most rows of a run */
  int64_t windows;  /* that a run touches: whole ones, or 1 of which it is a part */
  int64_t context;  /* positions of a window's keys and values: whole blocks of attention, wherever the window is among others */
  bpdq_state *state;
  int32_t *positions, *sequences; /* of a run [rows] */
  float *zeros;                   /* as many as the widest linear has rows: for stacked biases that some parts lack */
} bpdq_forward;

/* Two streams may take turns on one forward; each has its own keys and values. */
enum { BPDQ_FORWARD_STREAMS = 2 };

bpdq_status bpdq_forward_create(const bpdq_forward_desc *desc, bpdq_forward *forward, bpdq_error *error);
void bpdq_forward_free(bpdq_forward *forward); /* safe on a zeroed struct; programs are gone before */
/* After BPDQ_ERROR_MEMORY: fewer rows per run. Leaves *error and returns its status where they are few already. There must be no programs.
 */
bpdq_status bpdq_forward_shrink(bpdq_forward *forward, bpdq_error *error);

int64_t bpdq_forward_width(const bpdq_forward *forward, bpdq_activation activation);
bpdq_status bpdq_forward_write(const bpdq_forward *forward, bpdq_activation activation, int64_t rows, const float *values,
                               bpdq_error *error);
bpdq_status bpdq_forward_read(const bpdq_forward *forward, bpdq_activation activation, int64_t rows, float *values, bpdq_error *error);

/* ---- programs: steps in the order in which they are added, then compiled, then run any number of times ---- */

enum { BPDQ_FORWARD_HEAD_ROWS = 256 };                    /* of a run with the head, whose logits are wide */
enum { BPDQ_FORWARD_OPS = 8, BPDQ_FORWARD_WEIGHTS = 16 }; /* enough for a whole block */

typedef struct bpdq_forward_program {
  bpdq_forward *forward;
  bpdq_op ops[BPDQ_FORWARD_OPS];
  bpdq_weight *weights[BPDQ_FORWARD_WEIGHTS];
  int op_count, weight_count;
  int64_t rows; /* most of a run */
  bpdq_executable *executable;
} bpdq_forward_program;

static inline bpdq_forward_program bpdq_forward_begin(bpdq_forward *forward) {
  return (bpdq_forward_program){.forward = forward, .rows = forward->rows};
}
void bpdq_forward_program_free(bpdq_forward_program *program); /* safe on a zeroed struct */

/* HIDDEN to NORMED. `norm` f32 [hidden]; weights outlive the program, here and below. */
bpdq_status bpdq_forward_add_norm(bpdq_forward_program *program, const float *norm, bpdq_error *error);
/* HIDDEN to HEADS: norm, q k v, rotation, attention. */
bpdq_status bpdq_forward_add_attention(bpdq_forward_program *program, const bpdq_block *block, bpdq_error *error);
/* HIDDEN to GATED: norm, gate and up, and their product. */
bpdq_status bpdq_forward_add_gate(bpdq_forward_program *program, const bpdq_block *block, bpdq_error *error);
/* HIDDEN += input W^T + bias, for o_proj (input HEADS) and down_proj (GATED). */
bpdq_status bpdq_forward_add_residual(bpdq_forward_program *program, const bpdq_block_linear *linear, bpdq_activation input,
                                      bpdq_error *error);
/* OUTPUT = input W^T, without the bias. */
bpdq_status bpdq_forward_add_product(bpdq_forward_program *program, const bpdq_block_linear *linear, bpdq_activation input,
                                     bpdq_error *error);
/* HIDDEN to LOGITS: norm and head. */
bpdq_status bpdq_forward_add_head(bpdq_forward_program *program, const float *norm, const bpdq_block_linear *head, bpdq_error *error);
bpdq_status bpdq_forward_compile(bpdq_forward_program *program, bpdq_error *error);

/* How many rows from `first` on make the next run, so that windows are whole or follow each other. */
int64_t bpdq_forward_batch(const bpdq_forward *forward, int64_t first, int64_t tokens);
/* Rows `first` .. first + rows - 1, counted over all windows, of stream 0 or 1. */
bpdq_status bpdq_forward_run(const bpdq_forward_program *program, int stream, int64_t first, int64_t rows, bpdq_error *error);

#endif
