/* Texts, JSON-lines and ids to one list of tokens, and the windows that are cut from it. */
#include "calibration.h"

#include <jansson.h>
#include <string.h>

#include "core/checked.h"
#include "core/platform.h"
#include "format/template/template.h"
#include "format/tokenizer.h"

static const uint64_t LARGEST_FILE = (uint64_t)4 << 30;
enum { SHORTEST_WINDOW = 16 };

typedef struct token_list {
  int32_t *ids;
  size_t count, capacity;
} token_list;

typedef struct reader {
  const char *path;
  const bpdq_quantize_options *options;
  bpdq_tokenizer *tokenizer; /* NULL for ids */
  bpdq_template *chat;       /* NULL unless chat_template */
  char *bos_token, *eos_token;
  int64_t vocab_size;
  token_list tokens;
} reader;

static bpdq_status append(reader *r, const int32_t *ids, size_t count, bpdq_error *error) {
  token_list *list = &r->tokens;
  if (count > list->capacity - list->count) {
    size_t capacity = list->capacity * 2 + count + 1024;
    int32_t *grown = capacity > SIZE_MAX / sizeof *grown ? NULL : realloc(list->ids, capacity * sizeof *grown);
    if (!grown) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory for the calibration tokens", r->path);
    list->ids = grown;
    list->capacity = capacity;
  }
  if (count) memcpy(list->ids + list->count, ids, count * sizeof *ids);
  list->count += count;
  return BPDQ_OK;
}

/* ---- text ---- */

/* Offset of the first byte that is not part of well-formed UTF-8 (or a NUL), or `length`. */
static size_t first_bad_byte(const char *text, size_t length) {
  const unsigned char *s = (const unsigned char *)text;
  for (size_t i = 0; i < length;) {
    unsigned char lead = s[i];
    size_t size = lead < 0x80 ? 1 : lead >= 0xC2 && lead < 0xE0 ? 2 : lead >= 0xE0 && lead < 0xF0 ? 3 : lead >= 0xF0 && lead < 0xF5 ? 4 : 0;
    if (lead == 0 || size == 0 || size > length - i) return i;
    for (size_t j = 1; j < size; j++)
      if ((s[i + j] & 0xC0) != 0x80) return i;
    unsigned second = size > 1 ? s[i + 1] : 0;
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) || (lead == 0xF0 && second < 0x90) ||
        (lead == 0xF4 && second > 0x8F))
      return i;
    i += size;
  }
  return length;
}

static bpdq_status add_text(reader *r, const char *text, size_t length, bpdq_error *error) {
  int32_t *ids;
  size_t count;
  BPDQ_TRY(bpdq_tokenizer_encode(r->tokenizer, text, length, true, &ids, &count, error));
  bpdq_status status = append(r, ids, count, error);
  free(ids);
  return status;
}

static bpdq_status read_text(reader *r, const char *data, size_t size, bpdq_error *error) {
  size_t bad = first_bad_byte(data, size);
  if (bad < size)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: not UTF-8 text (byte %zu); convert it to UTF-8, or pass token ids", r->path, bad);
  return add_text(r, data, size, error);
}

/* ---- JSON-lines ---- */

static bpdq_status add_document(reader *r, const char *text, size_t length, bpdq_error *error) {
  if (!r->chat) return add_text(r, text, length, error);
  bpdq_chat_message message = {"user", text};
  bpdq_template_input input = {&message, 1, false, r->bos_token, r->eos_token};
  char *rendered;
  BPDQ_TRY(bpdq_template_render(r->chat, &input, &rendered, error));
  bpdq_status status = add_text(r, rendered, strlen(rendered), error);
  free(rendered);
  return status;
}

static bpdq_status read_json_line(reader *r, const char *line, size_t length, size_t number, bpdq_error *error) {
  json_error_t problem;
  json_t *object = json_loadb(line, length, 0, &problem);
  if (!object) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: line %zu is not JSON: %s", r->path, number, problem.text);
  const char *field = r->options->text_field ? r->options->text_field : "text";
  json_t *text = json_object_get(object, field);
  bpdq_status status;
  if (json_is_string(text))
    status = add_document(r, json_string_value(text), json_string_length(text), error);
  else
    status = bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: line %zu has no string '%s'", r->path, number, field);
  json_decref(object);
  return status;
}

static bpdq_status read_json_lines(reader *r, const char *data, size_t size, bpdq_error *error) {
  size_t number = 0;
  for (const char *line = data, *end = data + size; line < end;) {
    const char *newline = memchr(line, '\n', (size_t)(end - line)), *stop = newline ? newline : end;
    number++;
    if (line + strspn(line, " \t\r") < stop) BPDQ_TRY(read_json_line(r, line, (size_t)(stop - line), number, error));
    line = newline ? newline + 1 : end;
  }
  return BPDQ_OK;
}

/* ---- ids ---- */

static bpdq_status read_ids(reader *r, const char *data, size_t size, bpdq_error *error) {
  for (size_t i = 0; i < size;) {
    if (strchr(" \t\r\n,[]", data[i]) && data[i]) {
      i++;
      continue;
    }
    int64_t id = 0;
    size_t begin = i;
    for (; i < size && data[i] >= '0' && data[i] <= '9' && id < r->vocab_size; i++) id = id * 10 + (data[i] - '0');
    if (i == begin) return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: byte %zu is not a token id", r->path, i);
    if (id >= r->vocab_size)
      return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: the id at byte %zu is outside the vocabulary of %lld", r->path, begin,
                       (long long)r->vocab_size);
    int32_t narrow = (int32_t)id;
    BPDQ_TRY(append(r, &narrow, 1, error));
  }
  return BPDQ_OK;
}

/* ---- windows ---- */

static bpdq_status cut(reader *r, int64_t context, const bpdq_log *log, bpdq_calibration *calibration, bpdq_error *error) {
  int64_t total = (int64_t)r->tokens.count, length = r->options->sequence_length < context ? r->options->sequence_length : context;
  if (total < SHORTEST_WINDOW)
    return bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: %lld tokens are too few to calibrate with; %d are the least, %lld fill one window",
                     r->path, (long long)total, SHORTEST_WINDOW, (long long)length);
  if (total < length) {
    bpdq_log_warning(log, "calibration text holds %lld tokens, less than one window of %lld", (long long)total, (long long)length);
    length = total;
  }
  int64_t whole = total / length, count = r->options->samples && r->options->samples < whole ? r->options->samples : whole;
  if (count < r->options->samples)
    bpdq_log_warning(log, "calibration text holds %lld windows of %lld tokens, not %lld: using them all", (long long)whole,
                     (long long)length, (long long)r->options->samples);
  int32_t *ids = bpdq_alloc_array((size_t)(count * length), sizeof *ids);
  if (!ids) return bpdq_fail(error, BPDQ_ERROR_MEMORY, "%s: out of host memory for the calibration windows", r->path);
  for (int64_t i = 0; i < count; i++) memcpy(ids + i * length, r->tokens.ids + i * whole / count * length, (size_t)length * sizeof *ids);
  *calibration = (bpdq_calibration){ids, count, length};
  return BPDQ_OK;
}

static bool ends_with(const char *text, const char *end) {
  size_t length = strlen(text), tail = strlen(end);
  return length >= tail && !strcmp(text + length - tail, end);
}

static bpdq_status load_chat_template(reader *r, const char *folder, bpdq_error *error) {
  char *text;
  BPDQ_TRY(bpdq_template_load(folder, &text, &r->bos_token, &r->eos_token, error));
  if (!text)
    return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "%s: the model has no chat template to render the calibration documents with", folder);
  bpdq_status status = bpdq_template_parse(text, strlen(text), &r->chat, error);
  free(text);
  return status;
}

bpdq_status bpdq_calibration_load(const char *model_folder, int64_t vocab_size, int64_t context, const bpdq_quantize_options *options,
                                  const bpdq_log *log, bpdq_calibration *calibration, bpdq_error *error) {
  *calibration = (bpdq_calibration){0};
  reader r = {.path = options->calibration_path, .options = options, .vocab_size = vocab_size};
  if (!r.path) return bpdq_fail(error, BPDQ_ERROR_ARGUMENT, "a calibration text is needed: pass one with --calib");
  bpdq_calibration_format format = options->calibration_format;
  if (format == BPDQ_CALIBRATION_AUTO)
    format = ends_with(r.path, ".jsonl") ? BPDQ_CALIBRATION_JSON_LINES
             : ends_with(r.path, ".ids") ? BPDQ_CALIBRATION_IDS
                                         : BPDQ_CALIBRATION_TEXT;
  char *data = NULL;
  size_t size;
  bpdq_status status;
  BPDQ_TRY(bpdq_read_file(r.path, LARGEST_FILE, &data, &size, error));
  if (size == 0) {
    status = bpdq_fail(error, BPDQ_ERROR_FORMAT, "%s: the calibration file is empty", r.path);
    goto done;
  }
  if (format != BPDQ_CALIBRATION_IDS) BPDQ_TRY_GOTO(bpdq_tokenizer_load(model_folder, vocab_size, &r.tokenizer, error), done);
  if (format == BPDQ_CALIBRATION_JSON_LINES && options->chat_template) BPDQ_TRY_GOTO(load_chat_template(&r, model_folder, error), done);
  if (format == BPDQ_CALIBRATION_TEXT)
    status = read_text(&r, data, size, error);
  else
    status = format == BPDQ_CALIBRATION_IDS ? read_ids(&r, data, size, error) : read_json_lines(&r, data, size, error);
  if (status == BPDQ_OK) status = cut(&r, context, log, calibration, error);
done:
  free(data);
  free(r.tokens.ids);
  free(r.bos_token);
  free(r.eos_token);
  bpdq_template_free(r.chat);
  bpdq_tokenizer_free(r.tokenizer);
  return status;
}

void bpdq_calibration_free(bpdq_calibration *calibration) {
  free(calibration->ids);
  *calibration = (bpdq_calibration){0};
}
