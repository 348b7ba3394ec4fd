#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* ---- the table of linears: layers of the same make share a row ---- */

/* "model.layers.3.mlp.down_proj" is layer 3's "mlp.down_proj"; the layer is -1 for a name outside the layers. */
static const char *split_name(const char *name, int *layer) {
  int behind = 0;
  *layer = -1;
  const char *start = strstr(name, "layers.");
  if (!start || sscanf(start, "layers.%d.%n", layer, &behind) != 1 || !behind) return name;
  return start + behind;
}

static bool same_make(const bpdq_linear_info *a, const bpdq_linear_info *b) {
  int ignored;
  return a->rows == b->rows && a->columns == b->columns && a->planes == b->planes && a->group == b->group &&
         a->bits_per_weight == b->bits_per_weight && strcmp(split_name(a->name, &ignored), split_name(b->name, &ignored)) == 0;
}

/* The layers after that of linears[i] which repeat it; marks them in `shown`. Writes "0-5,7" into text. */
static void collect_layers(const bpdq_inspection *model, size_t i, bool *shown, char *text, size_t size) {
  int first, last, layer;
  split_name(model->linears[i].name, &first);
  last = first;
  size_t used = 0;
  text[0] = 0;
  for (size_t j = i + 1; j <= model->linear_count; j++) {
    bool same = j < model->linear_count && same_make(&model->linears[i], &model->linears[j]);
    if (j < model->linear_count && !same) continue;
    if (same) split_name(model->linears[j].name, &layer);
    if (same && layer == last + 1) {
      last = layer;
    } else if (used < size) {
      used += (size_t)snprintf(text + used, size - used, first == last ? "%s%d" : "%s%d-%d", used ? "," : "", first, last);
      if (same) first = last = layer;
    }
    if (same) shown[j] = true;
  }
}

static int print_linears(const bpdq_inspection *model) {
  bool *shown = calloc(model->linear_count, sizeof *shown);
  if (!shown) return cli_fail_text("out of memory");
  printf("\n%-20s %-24s %15s %7s %6s %12s %12s\n", "layers", "linear", "rows x columns", "planes", "group", "bits/weight", "size each");
  for (size_t i = 0; i < model->linear_count; i++) {
    const bpdq_linear_info *linear = &model->linears[i];
    char layers[256] = "-", shape[48], planes[16] = "dense", group[16] = "-", bytes[32];
    int layer;
    if (shown[i]) continue;
    const char *name = split_name(linear->name, &layer);
    if (layer >= 0) collect_layers(model, i, shown, layers, sizeof layers);
    snprintf(shape, sizeof shape, "%lld x %lld", (long long)linear->rows, (long long)linear->columns);
    if (linear->planes) snprintf(planes, sizeof planes, "%d", linear->planes);
    if (linear->group) snprintf(group, sizeof group, "%d", linear->group);
    printf("%-20s %-24s %15s %7s %6s %12.4f %12s\n", layers, name, shape, planes, group, linear->bits_per_weight,
           options_size_text(linear->bytes, bytes, sizeof bytes));
  }
  free(shown);
  return 0;
}

/* ---- the whole ---- */

static int print_text(const char *folder, const bpdq_inspection *m, const bpdq_session_options *session,
                      const bpdq_memory_estimate *memory) {
  char all[32], device[32], cache[32], needed[32], work[32];
  printf("model            %s\n", folder);
  printf("architecture     %s: %lld layers, hidden %lld, intermediate %lld, %lld heads of %lld (%lld for keys and values)\n",
         m->architecture, (long long)m->layers, (long long)m->hidden_size, (long long)m->intermediate_size, (long long)m->heads,
         (long long)m->head_dim, (long long)m->kv_heads);
  printf("vocabulary       %lld tokens, head %s\n", (long long)m->vocab_size, m->tied_head ? "tied to the embedding" : "of its own");
  printf("context          %lld tokens\n", (long long)m->context_length);
  printf("parameters       %llu, %llu of them in bit-planes\n", (unsigned long long)m->parameters,
         (unsigned long long)m->quantized_weights);
  if (m->quantized) printf("bits per weight  %.6g in the bit-plane linears, with coefficients and padding\n", m->bits_per_weight);
  printf("weights          %s stored, %s on a GPU\n", options_size_text(m->weight_bytes, all, sizeof all),
         options_size_text(memory->weights, device, sizeof device));
  printf("GPU memory       about %s at %lld tokens of context: weights, %s of %s KV cache, %s of activations and buffers\n",
         options_size_text(memory->total, needed, sizeof needed), (long long)session->context,
         options_size_text(memory->cache, cache, sizeof cache), session->kv_type == BPDQ_KV_Q8 ? "q8" : "f16",
         options_size_text(memory->work, work, sizeof work));
  return print_linears(m);
}

static int print_json(const bpdq_inspection *m, const bpdq_session_options *session, const bpdq_memory_estimate *memory) {
  json_t *linears = json_array();
  for (size_t i = 0; i < m->linear_count; i++) {
    const bpdq_linear_info *l = &m->linears[i];
    json_array_append_new(
        linears, json_pack("{ss sI sI si si sf sI}", "name", l->name, "rows", (json_int_t)l->rows, "columns", (json_int_t)l->columns,
                           "planes", l->planes, "group", l->group, "bits_per_weight", l->bits_per_weight, "bytes", (json_int_t)l->bytes));
  }
  json_t *object =
      json_pack("{ss sI sI sI sI sI sI sI sI sb sb}", "architecture", m->architecture, "layers", (json_int_t)m->layers, "hidden_size",
                (json_int_t)m->hidden_size, "intermediate_size", (json_int_t)m->intermediate_size, "vocab_size", (json_int_t)m->vocab_size,
                "heads", (json_int_t)m->heads, "kv_heads", (json_int_t)m->kv_heads, "head_dim", (json_int_t)m->head_dim, "context_length",
                (json_int_t)m->context_length, "quantized", m->quantized, "tied_head", m->tied_head);
  json_t *sizes =
      json_pack("{sI sI sf sI sI sI sI sI so}", "parameters", (json_int_t)m->parameters, "quantized_weights",
                (json_int_t)m->quantized_weights, "bits_per_weight", m->bits_per_weight, "weight_bytes", (json_int_t)m->weight_bytes,
                "device_weight_bytes", (json_int_t)memory->weights, "ctx", (json_int_t)session->context, "kv_cache_bytes",
                (json_int_t)memory->cache, "memory_needed", (json_int_t)memory->total, "linears", linears);
  if (object && sizes) json_object_update(object, sizes);
  json_decref(sizes);
  return cli_print_json(object);
}

static const option memory_options[] = {CLI_CONTEXT_OPTION("the model's, at most 4096"), CLI_KV_OPTION};
static const option_table memory_table = TABLE_OF("memory", memory_options);

static int run(const command *self, int argc, char **argv) {
  model_flags flags = model_flags_default();
  void *bases[] = {&flags, &flags, &flags};
  const char *words[MAX_POSITIONALS];
  int code;
  if (!options_parse(self, bases, argc, argv, words, &code)) return code;
  cli_log log = {.quiet = flags.quiet};
  bpdq_error error = {0};
  bpdq_inspection *model = NULL;
  if (bpdq_inspect(words[0], cli_log_callback, &log, &model, &error) != BPDQ_OK) {
    code = cli_fail(&error);
  } else {
    cli_log_release(&log);
    bpdq_session_options session = cli_session_options(&flags);
    bpdq_memory_estimate memory = bpdq_estimate_memory(model, &session, cli_activations(&flags));
    session.context = memory.context;
    code = flags.json ? print_json(model, &session, &memory) : print_text(words[0], model, &session, &memory);
  }
  cli_log_free(&log);
  bpdq_inspection_free(model);
  return code;
}

const command command_info = {
    .name = "info",
    .summary = "what is in a model folder, and the memory it needs",
    .positionals = {"MODEL"},
    .tables = {&memory_table, &output_flag_table, &device_flag_table},
    .details =
        "No weight is loaded and no device is touched. The memory is that for --ctx tokens (default: the model's, at most 4096).\n"
        "Of the device options, which all model commands take, only --activations may change it.",
    .examples = "bpdq info Qwen2.5-7B-k2\nbpdq info Qwen2.5-72B-k2 --ctx 8192 --kv q8 --json",
    .run = run,
};
