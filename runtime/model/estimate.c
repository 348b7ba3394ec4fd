/* How much of a GPU's memory a model and one session take, from sizes alone: what decides whether a device is large enough, and what
 * `bpdq info` says. It takes the larger of what the backends take, so that a device that is chosen does hold the model. */
#include <math.h>

#include "backend/backend.h"
#include "model/model.h"

#define PREFILL_TOKENS 512 /* of a run, on either GPU backend */
#define LINEARS 7          /* of a layer */

/* What the backends pad to: CUDA's tiles of bit-planes, which are larger than Vulkan's, and what a driver grants large buffers. */
#define PLANE_ROWS 16
#define PLANE_COLUMNS 256
#define DENSE_COLUMNS 64
#define HEAD_COLUMNS 256
#define HEAD_SCALE_COLUMNS 32 /* share a scale of 16 bits (Vulkan; CUDA's scales are fewer) */
#define CACHE_ROWS 32
#define LARGE_BUFFER 0x1p20
#define PAGE 0x1p21

#define PREFILL_PROGRAMS 2      /* within a long prompt, and at its end */
#define KERNEL_BUFFERS 0x1p27   /* partial sums, results, norms and biases, and the rest of shared allocations */
#define LARGEST_ESTIMATE 0x1p62 /* config.json may ask for any context */

/* Doubles hold the sizes of any model exactly, and no product of a hostile config.json overflows. */
static double round_up(double value, double unit) { return ceil(value / unit) * unit; }
static double granted(double bytes) { return bytes < LARGE_BUFFER ? bytes : round_up(bytes, PAGE); }
static uint64_t to_bytes(double bytes) { return bytes < LARGEST_ESTIMATE ? (uint64_t)bytes : (uint64_t)LARGEST_ESTIMATE; }

static double linear_bytes(const bpdq_linear_info *linear, bool in_8_bits) {
  double rows = (double)linear->rows, columns = (double)linear->columns;
  if (linear->planes) {
    double stored = round_up(columns, linear->group);
    return (double)linear->bytes * round_up(rows, PLANE_ROWS) / rows * round_up(stored, PLANE_COLUMNS) / stored;
  }
  if (in_8_bits) return rows * round_up(columns, HEAD_COLUMNS) * (1 + 2.0 / HEAD_SCALE_COLUMNS);
  return rows * round_up(columns, DENSE_COLUMNS) * linear->bits_per_weight / 8;
}

/* The products of a layer that read the same input are one buffer. */
static double layer_bytes(const bpdq_linear_info linears[LINEARS]) {
  double bytes[LINEARS];
  for (int i = 0; i < LINEARS; i++) bytes[i] = linear_bytes(&linears[i], false);
  return granted(bytes[0] + bytes[1] + bytes[2]) + granted(bytes[3]) + granted(bytes[4] + bytes[5]) + granted(bytes[6]);
}

static double weights(const bpdq_inspection *model, bpdq_activations activations) {
  const bpdq_linear_info *head = &model->linears[model->linear_count - 1];
  bool large = head->rows * head->columns >= BPDQ_HEAD_ELEMENTS;
  double sum = granted(linear_bytes(head, large && activations != BPDQ_ACTIVATIONS_F32));
  for (int64_t i = 0; i < model->layers; i++) sum += layer_bytes(model->linears + i * LINEARS);
  return sum + (double)(2 * model->layers + 1) * (double)model->hidden_size * sizeof(float);
}

/* Keys and values of each layer are a buffer each. Heads are padded to what CUDA's kernels read. */
static double cache(const bpdq_inspection *model, const bpdq_session_options *session) {
  double width = model->head_dim <= 128 ? round_up((double)model->head_dim, 32) : 256;
  double entry = session->kv_type == BPDQ_KV_Q8 ? width + sizeof(float) : 2 * width;
  double positions = round_up((double)session->context * session->sequences, CACHE_ROWS);
  return 2 * (double)model->layers * granted(positions * (double)model->kv_heads * entry);
}

/* The tensors of a session (model.h), and for each program of many rows the input of its widest product as the kernels read it. */
static double work(const bpdq_inspection *model, const bpdq_session_options *session) {
  double context = (double)session->context, head_dim = (double)model->head_dim, widest = 0;
  double rows = fmax(fmin(context, PREFILL_TOKENS), session->sequences);
  for (size_t i = 0; i + 1 < model->linear_count; i++) widest = fmax(widest, (double)model->linears[i].columns);
  double row = (double)model->hidden_size + 2 * (double)(model->heads + model->kv_heads) * head_dim + 2 * (double)model->intermediate_size;
  double numbers = rows * (row + PREFILL_PROGRAMS * widest) + context * head_dim + session->sequences * (double)model->vocab_size;
  return numbers * sizeof(float) + KERNEL_BUFFERS;
}

bpdq_memory_estimate bpdq_estimate_memory(const bpdq_inspection *model, const bpdq_session_options *options, bpdq_activations activations) {
  bpdq_session_options session = options ? *options : bpdq_session_default_options();
  if (session.sequences < 1) session.sequences = 1;
  if (!session.context) session.context = bpdq_default_context(model->context_length);
  double parts[] = {weights(model, activations), cache(model, &session), work(model, &session)};
  double total = parts[0] + parts[1] + parts[2];
  return (bpdq_memory_estimate){to_bytes(parts[0]), to_bytes(parts[1]), to_bytes(parts[2]), to_bytes(total), session.context};
}
