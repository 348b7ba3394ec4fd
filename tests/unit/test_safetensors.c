/* Reading and writing safetensors: round trips, files of the reference library, and every way a file or folder can lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four headers above it */
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/platform.h"
#include "format/safetensors.h"
#include "unit/scratch.h"

/* Header text and `data_bytes` zero bytes behind it, as a file. */
static void write_safetensors_text(const char *name, const char *header, size_t data_bytes) {
  size_t length = strlen(header);
  uint8_t *bytes = test_calloc(8 + length + data_bytes + 1, 1);
  for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(length >> (8 * i));
  memcpy(bytes + 8, header, length + 1);
  scratch_write(name, bytes, 8 + length + data_bytes);
  test_free(bytes);
}

static void expect_refused(const char *name, const char *message) {
  char *path = scratch_path(name);
  bpdq_safetensors *file = NULL;
  bpdq_error error = {0};
  assert_int_equal(bpdq_safetensors_open(path, &file, &error), BPDQ_ERROR_FORMAT);
  assert_null(file);
  assert_contains(error.message, message);
  assert_contains(error.message, name);
  free(path);
}

static void a_written_file_has_the_specified_bytes(void **state) {
  (void)state;
  const float floats[2] = {1.0f, -2.0f};
  const uint16_t halves[3] = {0x3f80, 0x4000, 0x4040};
  const bpdq_tensor_to_write tensors[] = {
      {.name = "b", .type = BPDQ_STORED_BF16, .dimensions = 1, .shape = {3}, .data = halves},
      {.name = "a\"x", .type = BPDQ_STORED_F32, .dimensions = 2, .shape = {1, 2}, .data = floats},
  };
  const char *metadata[] = {"format", "pt", NULL};
  char *path = scratch_path("written.safetensors");
  assert_int_equal(bpdq_safetensors_write(path, tensors, 2, metadata, NULL), BPDQ_OK);
  const char *header =
      "{\"__metadata__\":{\"format\":\"pt\"},\"a\\\"x\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
      "\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[8,14]}}";
  char *bytes;
  size_t size;
  assert_int_equal(bpdq_read_file(path, 4096, &bytes, &size, NULL), BPDQ_OK);
  size_t padded = (strlen(header) + 7) / 8 * 8;
  assert_int_equal(size, 8 + padded + 14);
  assert_int_equal((uint8_t)bytes[0], padded);
  assert_memory_equal(bytes + 1, "\0\0\0\0\0\0\0", 7);
  assert_memory_equal(bytes + 8, header, strlen(header));
  for (size_t i = 8 + strlen(header); i < 8 + padded; i++) assert_int_equal(bytes[i], ' ');
  assert_memory_equal(bytes + 8 + padded, floats, 8);
  assert_memory_equal(bytes + 8 + padded + 8, halves, 6);
  free(bytes);
  free(path);
}

static void a_round_trip_keeps_names_types_shapes_and_data(void **state) {
  (void)state;
  const int32_t integers[6] = {1, -2, 3, -4, 5, -6};
  const uint8_t bytes[3] = {7, 8, 9};
  const bpdq_tensor_to_write tensors[] = {
      {.name = "z", .type = BPDQ_STORED_I32, .dimensions = 2, .shape = {2, 3}, .data = integers},
      {.name = "", .type = BPDQ_STORED_U8, .dimensions = 1, .shape = {3}, .data = bytes},
      {.name = "sc\xc3\xa4lar \\ \n", .type = BPDQ_STORED_BOOL, .dimensions = 0, .data = bytes},
      {.name = "empty", .type = BPDQ_STORED_F64, .dimensions = 3, .shape = {4, 0, 5}},
  };
  const char *metadata[] = {"k", "v\"", "", "x", NULL};
  char *path = scratch_path("round.safetensors");
  assert_int_equal(bpdq_safetensors_write(path, tensors, 4, metadata, NULL), BPDQ_OK);
  bpdq_safetensors *file;
  assert_int_equal(bpdq_safetensors_open(path, &file, NULL), BPDQ_OK);
  assert_int_equal(bpdq_safetensors_count(file), 4);
  for (size_t i = 0; i < 4; i++) {
    const bpdq_stored_tensor *read = bpdq_safetensors_find(file, tensors[i].name);
    assert_non_null(read);
    assert_int_equal(read->type, tensors[i].type);
    assert_int_equal(read->dimensions, tensors[i].dimensions);
    for (int d = 0; d < read->dimensions; d++) assert_int_equal(read->shape[d], tensors[i].shape[d]);
    if (read->bytes > 0) assert_memory_equal(read->data, tensors[i].data, read->bytes);
    bpdq_safetensors_will_need(file, read, 0, UINT64_MAX); /* hints: neither may change a byte or leave the tensor */
    bpdq_safetensors_will_need(file, read, read->bytes + 1, 1);
    bpdq_safetensors_release(file, read);
    if (read->bytes > 0) assert_memory_equal(read->data, tensors[i].data, read->bytes);
    if (i > 0) assert_true(strcmp(bpdq_safetensors_at(file, i - 1)->name, bpdq_safetensors_at(file, i)->name) < 0);
  }
  assert_int_equal(bpdq_safetensors_find(file, "empty")->bytes, 0);
  assert_int_equal(bpdq_safetensors_find(file, "sc\xc3\xa4lar \\ \n")->bytes, 1);
  assert_null(bpdq_safetensors_find(file, "zz"));
  assert_null(bpdq_safetensors_at(file, 4));
  assert_string_equal(bpdq_safetensors_metadata(file, "k"), "v\"");
  assert_string_equal(bpdq_safetensors_metadata(file, ""), "x");
  assert_null(bpdq_safetensors_metadata(file, "other"));
  assert_string_equal(bpdq_safetensors_path(file, 0), path);
  bpdq_safetensors_close(file);
  free(path);
}

static void the_reference_librarys_file_is_read(void **state) {
  (void)state;
  bpdq_safetensors *file;
  bpdq_error error = {0};
  if (bpdq_safetensors_open(BPDQ_SHARED "/vectors/k3_g128.safetensors", &file, &error) != BPDQ_OK)
    fail_msg("%s; the tests need the shared material at " BPDQ_SHARED, error.message);
  const bpdq_stored_tensor *bits = bpdq_safetensors_find(file, "B"), *coefficients = bpdq_safetensors_find(file, "c");
  assert_non_null(bits);
  assert_non_null(coefficients);
  assert_int_equal(bits->type, BPDQ_STORED_I32);
  assert_int_equal(coefficients->type, BPDQ_STORED_BF16);
  assert_int_equal(bits->shape[1], 3);
  assert_int_equal(coefficients->shape[1], 4);
  assert_int_equal(coefficients->shape[2], bits->shape[2]);
  assert_int_equal(bits->shape[0] * 32, coefficients->shape[0] * 128);
  assert_non_null(bpdq_safetensors_metadata(file, "herr_bpdq_bf16c"));
  bpdq_safetensors_close(file);
}

static void hostile_headers_are_refused(void **state) {
  (void)state;
#define TENSOR(name, type, shape, begin, end) \
  "\"" name "\":{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"
  static const struct {
    const char *header;
    size_t data_bytes;
    const char *message;
  } cases[] = {
      {"[]", 0, "does not start with '{'"},
      {" {}", 0, "does not start with '{'"},
      {"{\"a\":", 0, "invalid JSON"},
      {"{} x", 0, "invalid JSON"},
      {"{\"a\xff\":{}}", 0, "invalid JSON"},
      {"{\"a\\u0000\":{}}", 0, "invalid JSON"},
      {"{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
      {"{\"__metadata__\":{\"a\":1}}", 0, "'a' is not a string"},
      {"{\"a\":3}", 0, "not an object"},
      {"{\"a\":{}}", 0, "dtype"},
      {"{\"a\":{\"dtype\":1,\"shape\":[],\"data_offsets\":[0,4]}}", 4, "dtype"},
      {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "shape"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 8, "data_offsets"},
      {"{" TENSOR("a", "F32", "1", "0", "4") "}", 4, "shape is missing"},
      {"{" TENSOR("a", "F32", "[1.0]", "0", "4") "}", 4, "integers"},
      {"{" TENSOR("a", "F32", "[-1]", "0", "4") "}", 4, "integers"},
      {"{" TENSOR("a", "F32", "[1]", "0", "4.0") "}", 4, "data_offsets"},
      {"{" TENSOR("a", "F32", "[1]", "-4", "0") "}", 4, "data_offsets"},
      {"{" TENSOR("a", "F32", "[1]", "4", "0") "}", 4, "outside"},
      {"{" TENSOR("a", "F32", "[1]", "4", "8") "}", 4, "outside"},
      {"{" TENSOR("a", "F32", "[1]", "9223372036854775803", "9223372036854775807") "}", 4, "outside"},
      {"{" TENSOR("a", "F32", "[1]", "0", "18446744073709551620") "}", 4, "invalid JSON"},
      {"{" TENSOR("a", "F32", "[2]", "0", "4") "}", 4, "need 8 bytes"},
      {"{" TENSOR("a", "F32", "[4611686018427387904,4]", "0", "0") "}", 0, "too large"},
      {"{" TENSOR("a", "F64", "[4294967296,4294967296]", "0", "0") "}", 0, "too large"},
      {"{" TENSOR("a", "U8", "[1,1,1,1,1,1,1,1,1]", "0", "1") "}", 1, "dimensions"},
      {"{" TENSOR("a", "U8", "[4]", "0", "4") "," TENSOR("b", "U8", "[4]", "3", "7") "}", 7, "overlaps"},
      {"{" TENSOR("a", "U8", "[4]", "0", "4") "," TENSOR("b", "U8", "[4]", "0", "4") "}", 4, "overlaps"},
      {"{" TENSOR("a", "U8", "[4]", "0", "4") "," TENSOR("b", "U8", "[2]", "5", "7") "}", 7, "no tensor covers"},
      {"{" TENSOR("a", "U8", "[4]", "0", "4") "}", 5, "1 bytes behind"},
      {"{" TENSOR("a", "U8", "[1]", "0", "1") "," TENSOR("a", "U8", "[1]", "1", "2") "}", 2, "invalid JSON"},
  };
#undef TENSOR
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_safetensors_text("hostile.safetensors", cases[i].header, cases[i].data_bytes);
    expect_refused("hostile.safetensors", cases[i].message);
  }
}

static void header_lengths_are_checked_before_the_header(void **state) {
  (void)state;
  scratch_write("length.safetensors", "", 0);
  expect_refused("length.safetensors", "too short");
  scratch_write("length.safetensors", "\1\2\3", 3);
  expect_refused("length.safetensors", "too short");
  scratch_write("length.safetensors", "\0\0\0\0\0\0\0\0", 8);
  expect_refused("length.safetensors", "'{'");
  scratch_write("length.safetensors", "\x0b\0\0\0\0\0\0\0{}        ", 18);
  expect_refused("length.safetensors", "does not fit");
  scratch_write("length.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
  expect_refused("length.safetensors", "more than 100000000");
  scratch_write("length.safetensors", "\x01\xe1\xf5\x05\0\0\0\0{}", 10); /* 100,000,001 */
  expect_refused("length.safetensors", "more than 100000000");
}

static void deep_and_vast_json_is_refused_before_parsing(void **state) {
  (void)state;
  size_t size = 30 << 20;
  char *text = test_malloc(size + 1);
  memset(text, '[', size);
  memcpy(text, "{\"a\":", 5);
  text[size] = '\0';
  write_safetensors_text("deep.safetensors", text, 0);
  expect_refused("deep.safetensors", "nested more than");
  for (size_t i = 6; i < size; i++) text[i] = i % 2 ? ',' : '0';
  write_safetensors_text("vast.safetensors", text, 0);
  expect_refused("vast.safetensors", "too many values");
  test_free(text);
}

static void unknown_types_are_listed_without_a_size(void **state) {
  (void)state;
  write_safetensors_text("other.safetensors", "{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[3],\"data_offsets\":[0,3]}}  ", 3);
  char *path = scratch_path("other.safetensors");
  bpdq_safetensors *file;
  assert_int_equal(bpdq_safetensors_open(path, &file, NULL), BPDQ_OK);
  assert_int_equal(bpdq_safetensors_at(file, 0)->type, BPDQ_STORED_OTHER);
  assert_int_equal(bpdq_safetensors_at(file, 0)->bytes, 3);
  bpdq_safetensors_close(file);
  free(path);
}

/* ---- folders ---- */

#define ONE_BYTE(name) "{\"" name "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}"

static bpdq_status open_folder(const char *name, bpdq_safetensors **files, bpdq_error *error) {
  char *path = scratch_path(name);
  bpdq_status status = bpdq_safetensors_open_folder(path, files, error);
  free(path);
  return status;
}

static void shards_are_found_through_the_index(void **state) {
  (void)state;
  scratch_folder("sharded/part");
  write_safetensors_text("sharded/x.safetensors", ONE_BYTE("a"), 1);
  write_safetensors_text("sharded/part/y.safetensors", ONE_BYTE("b"), 1);
  write_safetensors_text("sharded/stray.safetensors", ONE_BYTE("c"), 1);
  scratch_write_text("sharded/model.safetensors.index.json",
                     "{\"metadata\":{},\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"part/y.safetensors\"}}");
  bpdq_safetensors *files;
  assert_int_equal(open_folder("sharded", &files, NULL), BPDQ_OK);
  assert_int_equal(bpdq_safetensors_count(files), 2);
  assert_int_equal(bpdq_safetensors_find(files, "a")->file, 0);
  assert_int_equal(bpdq_safetensors_find(files, "b")->file, 1);
  assert_contains(bpdq_safetensors_path(files, 1), "part/y.safetensors");
  bpdq_safetensors_close(files);
}

static void an_index_that_lies_is_refused(void **state) {
  (void)state;
  scratch_folder("lies");
  write_safetensors_text("lies/x.safetensors", ONE_BYTE("a"), 1);
  write_safetensors_text("lies/y.safetensors", ONE_BYTE("b"), 1);
  write_safetensors_text("lies/again.safetensors", ONE_BYTE("a"), 1);
  write_safetensors_text("outside.safetensors", ONE_BYTE("a"), 1);
  static const struct {
    const char *index;
    bpdq_status status;
    const char *message;
  } cases[] = {
      {"{}", BPDQ_ERROR_FORMAT, "weight_map"},
      {"{\"weight_map\":[]}", BPDQ_ERROR_FORMAT, "weight_map"},
      {"{\"weight_map\":{\"a\":1}}", BPDQ_ERROR_FORMAT, "not a string"},
      {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", BPDQ_ERROR_IO, "gone.safetensors"},
      {"{\"weight_map\":{\"a\":\"../outside.safetensors\"}}", BPDQ_ERROR_FORMAT, "inside the folder"},
      {"{\"weight_map\":{\"a\":\"sub/../../outside.safetensors\"}}", BPDQ_ERROR_FORMAT, "inside the folder"},
      {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", BPDQ_ERROR_FORMAT, "inside the folder"},
      {"{\"weight_map\":{\"a\":\"..\\\\outside.safetensors\"}}", BPDQ_ERROR_FORMAT, "inside the folder"},
      {"{\"weight_map\":{\"a\":\"..\"}}", BPDQ_ERROR_FORMAT, "inside the folder"},
      {"{\"weight_map\":{\"a\":\"\"}}", BPDQ_ERROR_FORMAT, "inside the folder"},
      {"{\"weight_map\":{\"a\":\"y.safetensors\"}}", BPDQ_ERROR_FORMAT, "'a' is not in the shard 'y.safetensors'"},
      {"{\"weight_map\":{\"a\":\"y.safetensors\",\"b\":\"x.safetensors\"}}", BPDQ_ERROR_FORMAT, "is not in the shard"},
      {"{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"again.safetensors\"}}", BPDQ_ERROR_FORMAT, "is both in"},
      {"{\"weight_map\":{\"a\":\"x.safetensors\",\"c\":\"x.safetensors\"}}", BPDQ_ERROR_FORMAT, "'c' is not in the shard"},
      {"{\"weight_map\":{\"a\":\"x.safetensors\",\"a\":\"y.safetensors\"}}", BPDQ_ERROR_FORMAT, "invalid JSON"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    scratch_write_text("lies/model.safetensors.index.json", cases[i].index);
    bpdq_safetensors *files;
    bpdq_error error = {0};
    assert_int_equal(open_folder("lies", &files, &error), cases[i].status);
    assert_null(files);
    assert_contains(error.message, cases[i].message);
  }
}

static void a_folder_without_an_index_gives_its_files(void **state) {
  (void)state;
  bpdq_safetensors *files;
  bpdq_error error = {0};
  assert_int_equal(open_folder("nowhere", &files, &error), BPDQ_ERROR_IO);
  assert_contains(error.message, "no such folder");
  scratch_folder("plain");
  assert_int_equal(open_folder("plain", &files, &error), BPDQ_ERROR_IO);
  assert_contains(error.message, "no model.safetensors");
  write_safetensors_text("plain/two.safetensors", ONE_BYTE("b"), 1);
  assert_int_equal(open_folder("plain", &files, NULL), BPDQ_OK);
  assert_int_equal(bpdq_safetensors_count(files), 1);
  bpdq_safetensors_close(files);
  write_safetensors_text("plain/one.safetensors", ONE_BYTE("a"), 1);
  assert_int_equal(open_folder("plain", &files, NULL), BPDQ_OK);
  assert_int_equal(bpdq_safetensors_count(files), 2);
  bpdq_safetensors_close(files);
  write_safetensors_text("plain/three.safetensors", ONE_BYTE("b"), 1);
  assert_int_equal(open_folder("plain", &files, &error), BPDQ_ERROR_FORMAT);
  assert_contains(error.message, "is both in");
  write_safetensors_text("plain/model.safetensors", ONE_BYTE("m"), 1);
  assert_int_equal(open_folder("plain", &files, NULL), BPDQ_OK);
  assert_int_equal(bpdq_safetensors_count(files), 1);
  assert_non_null(bpdq_safetensors_find(files, "m"));
  bpdq_safetensors_close(files);
}

static void the_writer_refuses_what_cannot_be_read(void **state) {
  (void)state;
  const uint8_t byte = 1;
  const bpdq_tensor_to_write good = {.name = "a", .type = BPDQ_STORED_U8, .dimensions = 1, .shape = {1}, .data = &byte};
  char *path = scratch_path("refused.safetensors");
  bpdq_error error = {0};
  bpdq_tensor_to_write tensors[2] = {good, good};
  assert_int_equal(bpdq_safetensors_write(path, tensors, 2, NULL, &error), BPDQ_ERROR_ARGUMENT);
  assert_contains(error.message, "twice");
  tensors[1].name = "__metadata__";
  assert_int_equal(bpdq_safetensors_write(path, tensors, 2, NULL, &error), BPDQ_ERROR_ARGUMENT);
  tensors[1].name = "\xff";
  assert_int_equal(bpdq_safetensors_write(path, tensors, 2, NULL, &error), BPDQ_ERROR_ARGUMENT);
  assert_contains(error.message, "UTF-8");
  tensors[1] = (bpdq_tensor_to_write){.name = "b", .type = BPDQ_STORED_F32, .dimensions = 2, .shape = {INT64_MAX, 8}, .data = &byte};
  assert_int_equal(bpdq_safetensors_write(path, tensors, 2, NULL, &error), BPDQ_ERROR_ARGUMENT);
  tensors[1] = (bpdq_tensor_to_write){.name = "b", .type = BPDQ_STORED_OTHER, .dimensions = 1, .shape = {1}, .data = &byte};
  assert_int_equal(bpdq_safetensors_write(path, tensors, 2, NULL, &error), BPDQ_ERROR_ARGUMENT);
  assert_false(bpdq_path_exists(path));
  free(path);
  path = scratch_path("no/such/folder.safetensors");
  assert_int_equal(bpdq_safetensors_write(path, &good, 1, NULL, &error), BPDQ_ERROR_IO);
  free(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_written_file_has_the_specified_bytes),
      cmocka_unit_test(a_round_trip_keeps_names_types_shapes_and_data),
      cmocka_unit_test(the_reference_librarys_file_is_read),
      cmocka_unit_test(hostile_headers_are_refused),
      cmocka_unit_test(header_lengths_are_checked_before_the_header),
      cmocka_unit_test(deep_and_vast_json_is_refused_before_parsing),
      cmocka_unit_test(unknown_types_are_listed_without_a_size),
      cmocka_unit_test(shards_are_found_through_the_index),
      cmocka_unit_test(an_index_that_lies_is_refused),
      cmocka_unit_test(a_folder_without_an_index_gives_its_files),
      cmocka_unit_test(the_writer_refuses_what_cannot_be_read),
  };
  return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
