/* Finds every tensor of the decoder in a model folder under its Hugging Face name and checks it against the config. */
#include "format/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "core/half.h"

#define MIN_GROUP 32
#define MAX_GROUP 256
#define MAX_PLANES 8

/* State of one bpdq_checkpoint_open. */
typedef struct locator {
  const char *folder;
  const bpdq_safetensors *tensors;
  const bpdq_config *config;
  const bpdq_log *log;
  bpdq_error *error;
  const char *prefix; /* "model." or "" */
  bool *used;         /* per tensor of the collection */
  int disagreements;  /* linears that are not as quantization_config says */
  char first_disagreement[400];
  int unexpected_biases;
  const char *first_unexpected_bias;
} locator;

typedef char tensor_name[256];

static const bpdq_stored_tensor *find(const locator *at, const char *module, const char *suffix) {
  tensor_name name;
  snprintf(name, sizeof name, "%s%s", module, suffix);
  return bpdq_safetensors_find(at->tensors, name);
}

static void mark_used(locator *at, const bpdq_stored_tensor *tensor) { at->used[tensor - bpdq_safetensors_at(at->tensors, 0)] = true; }

static void describe_shape(const bpdq_stored_tensor *tensor, char *text, size_t size) {
  size_t length = (size_t)snprintf(text, size, "[");
  for (int i = 0; i < tensor->dimensions && length < size; i++)
    length += (size_t)snprintf(text + length, size - length, "%s%lld", i > 0 ? ", " : "", (long long)tensor->shape[i]);
  if (length < size) snprintf(text + length, size - length, "]");
}

static bpdq_status fail_tensor(const locator *at, const bpdq_stored_tensor *tensor, const char *problem) {
  char shape[200];
  describe_shape(tensor, shape, sizeof shape);
  return bpdq_fail(at->error, BPDQ_ERROR_FORMAT, "%s: tensor '%s' (%s %s) %s", bpdq_safetensors_path(at->tensors, tensor->file),
                   tensor->name, bpdq_stored_type_name(tensor->type), shape, problem);
}

static bool is_floating(bpdq_stored_type type) { return type == BPDQ_STORED_F32 || type == BPDQ_STORED_F16 || type == BPDQ_STORED_BF16; }

/* A floating tensor [rows, columns], or [rows] where columns is 0. */
static bpdq_status check_dense(locator *at, const bpdq_stored_tensor *tensor, int64_t rows, int64_t columns) {
  bool fits = columns == 0 ? tensor->dimensions == 1 && tensor->shape[0] == rows
                           : tensor->dimensions == 2 && tensor->shape[0] == rows && tensor->shape[1] == columns;
  char problem[160];
  if (!fits) {
    if (columns == 0)
      snprintf(problem, sizeof problem, "does not have the shape [%lld] that config.json asks for", (long long)rows);
    else
      snprintf(problem, sizeof problem, "does not have the shape [%lld, %lld] that config.json asks for", (long long)rows,
               (long long)columns);
    return fail_tensor(at, tensor, problem);
  }
  if (!is_floating(tensor->type)) return fail_tensor(at, tensor, "must be F32, F16 or BF16");
  mark_used(at, tensor);
  return BPDQ_OK;
}

/* Finds and checks a tensor that must be there. `name` is relative to the prefix. */
static bpdq_status require(locator *at, const char *name, int64_t rows, int64_t columns, const bpdq_stored_tensor **result) {
  *result = find(at, at->prefix, name);
  if (!*result) return bpdq_fail(at->error, BPDQ_ERROR_FORMAT, "%s: tensor '%s%s' is missing", at->folder, at->prefix, name);
  return check_dense(at, *result, rows, columns);
}

/* ---- bit-plane linears ---- */

/* B [T, k, N] and c [G, k+1, N] against N and K: 32 T = G g columns with ceil(K / g) = G (docs/format.md section 2). */
static bpdq_status check_planes(locator *at, bpdq_linear_source *linear) {
  const bpdq_stored_tensor *bits = linear->bits, *coefficients = linear->coefficients;
  if (bits->type != BPDQ_STORED_I32 || bits->dimensions != 3) return fail_tensor(at, bits, "must be I32 with 3 dimensions");
  if (!is_floating(coefficients->type) || coefficients->dimensions != 3)
    return fail_tensor(at, coefficients, "must be BF16, F16 or F32 with 3 dimensions");
  int64_t words = bits->shape[0], planes = bits->shape[1], groups = coefficients->shape[0];
  char problem[200];
  if (planes < 1 || planes > MAX_PLANES) return fail_tensor(at, bits, "must have 1 to 8 bit-planes in its second dimension");
  if (bits->shape[2] != linear->rows || coefficients->shape[2] != linear->rows) {
    snprintf(problem, sizeof problem, "must have the %lld rows that config.json asks for in its last dimension", (long long)linear->rows);
    return fail_tensor(at, bits->shape[2] != linear->rows ? bits : coefficients, problem);
  }
  if (coefficients->shape[1] != planes + 1) {
    snprintf(problem, sizeof problem, "must have %lld coefficients per group, one more than B has planes", (long long)planes + 1);
    return fail_tensor(at, coefficients, problem);
  }
  if (words < 1 || words > linear->columns + MAX_GROUP) {
    snprintf(problem, sizeof problem, "does not hold the %lld columns that config.json asks for", (long long)linear->columns);
    return fail_tensor(at, bits, problem);
  }
  if (groups < 1 || words * 32 % groups != 0)
    return fail_tensor(at, coefficients, "has a number of groups that does not divide the columns of B");
  int64_t group = words * 32 / groups;
  if (group % 32 != 0 || group < MIN_GROUP || group > MAX_GROUP) {
    snprintf(problem, sizeof problem, "implies groups of %lld columns; multiples of 32 from 32 to 256 are supported", (long long)group);
    return fail_tensor(at, coefficients, problem);
  }
  if ((int64_t)bpdq_ceil_div((uint64_t)linear->columns, (uint64_t)group) != groups) {
    snprintf(problem, sizeof problem, "holds %lld columns in groups of %lld, but config.json asks for %lld columns", (long long)words * 32,
             (long long)group, (long long)linear->columns);
    return fail_tensor(at, bits, problem);
  }
  linear->planes = (int)planes;
  linear->group = (int)group;
  mark_used(at, bits);
  mark_used(at, coefficients);
  return BPDQ_OK;
}

/* The shapes decide; what quantization_config says differently is counted for one warning. */
static void compare_with_settings(locator *at, const bpdq_linear_source *linear) {
  int planes, group;
  char stored[64] = "dense", expected[64] = "dense";
  bool quantized = linear->bits != NULL;
  bool should_be = bpdq_config_module(at->config, linear->name, &planes, &group);
  bool same_planes = planes == 0 || planes == linear->planes, same_group = group == 0 || group == linear->group;
  if (quantized == should_be && (!quantized || (same_planes && same_group))) return;
  if (at->disagreements++ > 0) return;
  if (quantized) snprintf(stored, sizeof stored, "%d planes, group %d", linear->planes, linear->group);
  if (should_be) snprintf(expected, sizeof expected, "%d planes, group %d", planes, group);
  snprintf(at->first_disagreement, sizeof at->first_disagreement, "%s is stored as %s, the settings say %s", linear->name, stored,
           expected);
}

static bpdq_status locate_bias(locator *at, const char *module, bool expected, bpdq_linear_source *linear) {
  linear->bias = find(at, module, ".bias");
  if (!linear->bias && expected)
    return bpdq_fail(at->error, BPDQ_ERROR_FORMAT, "%s: tensor '%s.bias' is missing; config.json says that this layer has a bias",
                     at->folder, module);
  if (!linear->bias) return BPDQ_OK;
  if (!expected && at->unexpected_biases++ == 0) at->first_unexpected_bias = linear->bias->name;
  return check_dense(at, linear->bias, linear->rows, 0);
}

/* `module` is the name in the file, linear->name the canonical one that the `dynamic` rules and messages use. */
static bpdq_status locate_linear(locator *at, const char *module, bool bias_expected, bpdq_linear_source *linear) {
  linear->weight = find(at, module, ".weight");
  linear->bits = find(at, module, ".B");
  linear->coefficients = find(at, module, ".c");
  if (!linear->bits != !linear->coefficients)
    return bpdq_fail(at->error, BPDQ_ERROR_FORMAT, "%s: tensor '%s.%s' is missing beside '%s.%s'", at->folder, module,
                     linear->bits ? "c" : "B", module, linear->bits ? "B" : "c");
  if (linear->bits && linear->weight)
    return bpdq_fail(at->error, BPDQ_ERROR_FORMAT, "%s: '%s' is stored both dense (.weight) and as bit-planes (.B, .c)", at->folder,
                     module);
  if (!linear->bits && !linear->weight)
    return bpdq_fail(at->error, BPDQ_ERROR_FORMAT, "%s: tensor '%s.weight' (or '.B' and '.c') is missing", at->folder, module);
  BPDQ_TRY(linear->bits ? check_planes(at, linear) : check_dense(at, linear->weight, linear->rows, linear->columns));
  compare_with_settings(at, linear);
  return locate_bias(at, module, bias_expected, linear);
}

/* ---- the decoder ---- */

static bpdq_status locate_layer_linear(locator *at, int64_t layer, const char *part, int64_t rows, int64_t columns, bool bias_expected,
                                       bpdq_linear_source *linear) {
  char module[160];
  snprintf(module, sizeof module, "%slayers.%lld.%s", at->prefix, (long long)layer, part);
  snprintf(linear->name, sizeof linear->name, "model.layers.%lld.%s", (long long)layer, part);
  linear->rows = rows;
  linear->columns = columns;
  return locate_linear(at, module, bias_expected, linear);
}

static bpdq_status require_layer_vector(locator *at, int64_t layer, const char *part, int64_t length, const bpdq_stored_tensor **result) {
  char name[160];
  snprintf(name, sizeof name, "layers.%lld.%s", (long long)layer, part);
  return require(at, name, length, 0, result);
}

static bpdq_status locate_layer(locator *at, int64_t index, bpdq_layer_source *layer) {
  const bpdq_config *config = at->config;
  int64_t hidden = config->hidden_size, inner = config->intermediate_size;
  int64_t q_rows = config->heads * config->head_dim, kv_rows = config->kv_heads * config->head_dim;
  BPDQ_TRY(require_layer_vector(at, index, "input_layernorm.weight", hidden, &layer->attention_norm));
  BPDQ_TRY(require_layer_vector(at, index, "post_attention_layernorm.weight", hidden, &layer->mlp_norm));
  if (config->qk_norm) {
    BPDQ_TRY(require_layer_vector(at, index, "self_attn.q_norm.weight", config->head_dim, &layer->q_norm));
    BPDQ_TRY(require_layer_vector(at, index, "self_attn.k_norm.weight", config->head_dim, &layer->k_norm));
  }
  BPDQ_TRY(locate_layer_linear(at, index, "self_attn.q_proj", q_rows, hidden, config->attention_bias, &layer->q));
  BPDQ_TRY(locate_layer_linear(at, index, "self_attn.k_proj", kv_rows, hidden, config->attention_bias, &layer->k));
  BPDQ_TRY(locate_layer_linear(at, index, "self_attn.v_proj", kv_rows, hidden, config->attention_bias, &layer->v));
  BPDQ_TRY(locate_layer_linear(at, index, "self_attn.o_proj", hidden, q_rows, config->output_bias, &layer->o));
  BPDQ_TRY(locate_layer_linear(at, index, "mlp.gate_proj", inner, hidden, config->mlp_bias, &layer->gate));
  BPDQ_TRY(locate_layer_linear(at, index, "mlp.up_proj", inner, hidden, config->mlp_bias, &layer->up));
  return locate_layer_linear(at, index, "mlp.down_proj", hidden, inner, config->mlp_bias, &layer->down);
}

/* A tied head is the embedding even where the file has an lm_head.weight, as in transformers; a head stored as planes has replaced
 * the tie. */
static bpdq_status locate_head(locator *at, bpdq_checkpoint *checkpoint) {
  bpdq_linear_source *head = &checkpoint->head;
  snprintf(head->name, sizeof head->name, "lm_head");
  head->rows = checkpoint->config.vocab_size;
  head->columns = checkpoint->config.hidden_size;
  if (checkpoint->config.tied_head && !find(at, "lm_head", ".B")) {
    head->weight = checkpoint->embedding;
    return BPDQ_OK;
  }
  checkpoint->config.tied_head = false;
  bpdq_status status = locate_linear(at, "lm_head", false, head);
  if (status != BPDQ_OK && !head->weight && !head->bits && !head->coefficients)
    return bpdq_fail(at->error, status, "%s: tensor 'lm_head.weight' is missing and tie_word_embeddings is false", at->folder);
  return status;
}

/* Tensors are named model.layers...; a bare decoder saved without its head lacks the "model.". */
static bpdq_status choose_prefix(locator *at) {
  bool with = find(at, "model.embed_tokens", ".weight") != NULL, without = find(at, "embed_tokens", ".weight") != NULL;
  if (with && without)
    return bpdq_fail(at->error, BPDQ_ERROR_FORMAT,
                     "%s: both 'model.embed_tokens.weight' and 'embed_tokens.weight' are there; remove one model", at->folder);
  if (!with && !without) return bpdq_fail(at->error, BPDQ_ERROR_FORMAT, "%s: tensor 'model.embed_tokens.weight' is missing", at->folder);
  at->prefix = with ? "model." : "";
  return BPDQ_OK;
}

static bpdq_status locate_decoder(locator *at, bpdq_checkpoint *checkpoint) {
  const bpdq_config *config = &checkpoint->config;
  BPDQ_TRY(choose_prefix(at));
  BPDQ_TRY(require(at, "embed_tokens.weight", config->vocab_size, config->hidden_size, &checkpoint->embedding));
  BPDQ_TRY(require(at, "norm.weight", config->hidden_size, 0, &checkpoint->final_norm));
  checkpoint->layers = calloc((size_t)config->layers, sizeof *checkpoint->layers);
  if (!checkpoint->layers)
    return bpdq_fail(at->error, BPDQ_ERROR_MEMORY, "%s: out of memory for %lld layers", at->folder, (long long)config->layers);
  for (int64_t i = 0; i < config->layers; i++) BPDQ_TRY(locate_layer(at, i, &checkpoint->layers[i]));
  return locate_head(at, checkpoint);
}

static bool ends_with(const char *text, const char *suffix) {
  size_t length = strlen(text), suffix_length = strlen(suffix);
  return length >= suffix_length && strcmp(text + length - suffix_length, suffix) == 0;
}

/* Sums the bytes in use and logs what is odd but harmless. */
static void take_stock(const locator *at, bpdq_checkpoint *checkpoint) {
  size_t unused = 0;
  const char *first_unused = NULL;
  for (size_t i = 0; i < bpdq_safetensors_count(at->tensors); i++) {
    const bpdq_stored_tensor *tensor = bpdq_safetensors_at(at->tensors, i);
    if (at->used[i]) {
      checkpoint->weight_bytes += tensor->bytes;
    } else if (!ends_with(tensor->name, "rotary_emb.inv_freq")) {
      if (unused++ == 0) first_unused = tensor->name;
    }
  }
  if (unused > 0)
    bpdq_log_warning(at->log, "%s: %zu tensors are not used by this architecture and ignored (first: %.200s)", checkpoint->folder, unused,
                     first_unused);
  if (at->disagreements > 0)
    bpdq_log_warning(at->log, "%s: %d linear layers are not as quantization_config says; the tensors decide (first: %s)",
                     checkpoint->folder, at->disagreements, at->first_disagreement);
  if (at->unexpected_biases > 0)
    bpdq_log_warning(at->log, "%s: %d biases that config.json does not mention are applied (first: %.200s)", checkpoint->folder,
                     at->unexpected_biases, at->first_unexpected_bias);
}

static bpdq_status open_checked(bpdq_checkpoint *checkpoint, const bpdq_log *log, bpdq_error *error) {
  BPDQ_TRY(bpdq_config_load(checkpoint->folder, &checkpoint->config, log, error));
  BPDQ_TRY(bpdq_safetensors_open_folder(checkpoint->folder, &checkpoint->tensors, error));
  locator at = {.folder = checkpoint->folder, .tensors = checkpoint->tensors, .config = &checkpoint->config, .log = log, .error = error};
  at.used = calloc(bpdq_safetensors_count(checkpoint->tensors) + 1, sizeof *at.used);
  if (!at.used) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of memory", checkpoint->folder);
  bpdq_status status = locate_decoder(&at, checkpoint);
  if (status == BPDQ_OK) take_stock(&at, checkpoint);
  free(at.used);
  return status;
}

bpdq_status bpdq_checkpoint_open(const char *folder, bpdq_checkpoint *checkpoint, const bpdq_log *log, bpdq_error *error) {
  *checkpoint = (bpdq_checkpoint){.folder = strdup(folder)};
  if (!checkpoint->folder) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of memory", folder);
  bpdq_status status = open_checked(checkpoint, log, error);
  if (status != BPDQ_OK) bpdq_checkpoint_close(checkpoint);
  return status;
}

void bpdq_checkpoint_close(bpdq_checkpoint *checkpoint) {
  free(checkpoint->folder);
  free(checkpoint->layers);
  bpdq_safetensors_close(checkpoint->tensors);
  bpdq_config_free(&checkpoint->config);
  *checkpoint = (bpdq_checkpoint){0};
}

/* ---- reading ---- */

void bpdq_stored_row_to_f32(const bpdq_stored_tensor *tensor, int64_t row, int64_t columns, float *out) {
  size_t width = bpdq_stored_type_size(tensor->type);
  const uint8_t *data = tensor->data + (size_t)row * (size_t)columns * width;
  if (tensor->type == BPDQ_STORED_F32) {
    memcpy(out, data, (size_t)columns * sizeof *out);
    return;
  }
  for (int64_t i = 0; i < columns; i++) {
    uint16_t bits;
    memcpy(&bits, data + 2 * i, sizeof bits);
    out[i] = tensor->type == BPDQ_STORED_BF16 ? bpdq_bf16_to_float(bits) : bpdq_f16_to_float(bits);
  }
}

double bpdq_linear_bits_per_weight(const bpdq_linear_source *linear) {
  if (!linear->bits) return 0;
  return 8.0 * ((double)linear->bits->bytes + (double)linear->coefficients->bytes) / ((double)linear->rows * (double)linear->columns);
}
