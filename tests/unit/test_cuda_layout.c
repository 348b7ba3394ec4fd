/* The CUDA backend's device layouts, replayed on the CPU: what a tensor-core instruction reads from a lane's registers (PTX ISA, matrix
 * fragments of mma.m16n8k256.b1 and mma.m16n8k16.f16) must be the weight bit and the activation that belong together. */
#include "../../cuda/layout.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ROWS = 37, WORDS = 20, PLANES = 3, ROW_TILES = 3, COLUMN_TILES = 3 };

static uint32_t random_word(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(*state >> 32);
}

/* Row and column, in a 16 x 256 tile, of bit `bit` of register `i` of `lane`: PTX ISA, A fragment of m16n8k256. */
static void binary_a(int lane, int i, int bit, int *row, int *column) {
  *row = lane / 4 + (i % 2 ? 8 : 0);
  *column = lane % 4 * 32 + bit + (i < 2 ? 0 : 128);
}

static void planes_are_a_fragments(void **context) {
  (void)context;
  uint64_t seed = 1;
  uint32_t source[WORDS][PLANES][ROWS];
  uint32_t *packed = calloc((size_t)ROW_TILES * COLUMN_TILES * PLANES * BPDQ_CUDA_TILE_WORDS, sizeof *packed);
  assert_non_null(packed);
  for (int t = 0; t < WORDS; t++)
    for (int p = 0; p < PLANES; p++)
      for (int n = 0; n < ROWS; n++) {
        source[t][p][n] = random_word(&seed);
        packed[bpdq_cuda_plane_word(n, t, p, PLANES, COLUMN_TILES)] = source[t][p][n];
      }
  for (int tile = 0; tile < ROW_TILES * COLUMN_TILES; tile++)
    for (int p = 0; p < PLANES; p++)
      for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
          uint32_t word = packed[((size_t)tile * PLANES + (size_t)p) * BPDQ_CUDA_TILE_WORDS + (size_t)lane * 4 + (size_t)i];
          for (int bit = 0; bit < 32; bit++) {
            int row, column;
            binary_a(lane, i, bit, &row, &column);
            int n = tile / COLUMN_TILES * 16 + row, k = tile % COLUMN_TILES * 256 + column;
            uint32_t expected = n < ROWS && k < WORDS * 32 ? source[k / 32][p][n] >> (k % 32) & 1 : 0;
            assert_int_equal(word >> bit & 1, expected);
          }
        }
  free(packed);
}

/* A lane (r, q) reads words 2 (4r + q) and the next one as b0 and b1: rows 32q.. and 128 + 32q.. of column r (the bit number). */
static void activation_bits_are_b_fragments(void **context) {
  (void)context;
  uint64_t seed = 2;
  uint8_t activations[256];
  uint32_t words[64] = {0};
  for (int k = 0; k < 256; k++) activations[k] = (uint8_t)random_word(&seed);
  for (int bit = 0; bit < 8; bit++)
    for (int k = 0; k < 256; k++) words[bpdq_cuda_bit_word(bit, k / 32)] |= (uint32_t)(activations[k] >> bit & 1) << (k % 32);
  for (int lane = 0; lane < 32; lane++)
    for (int i = 0; i < 2; i++)
      for (int bit = 0; bit < 32; bit++) {
        int column = lane / 4, k = lane % 4 * 32 + bit + 128 * i;
        assert_int_equal(words[lane * 2 + i] >> bit & 1, activations[k] >> column & 1);
      }
}

static double half_to_double(uint32_t half) {
  int exponent = (int)(half >> 10 & 31);
  double magnitude = exponent ? ldexp((double)(half & 1023) + 1024, exponent - 25) : ldexp((double)(half & 1023), -24);
  return half & 0x8000 ? -magnitude : magnitude;
}

/* PTX ISA: lane (r, q) has columns 2q and 2q + 1 of the sums of m16n8k256, and the same columns of the f16 operand of m16n8k16, whose other
 * operand holds rows 2q and 2q + 1. A group's counts, as pairs of 16 bits, times the weights are the sum of the numbers whose plane
 * bits are set, in units of 2^-24: also where all 256 of them are at either end. */
static void counts_and_weights_give_the_sum(void **context) {
  (void)context;
  uint64_t seed = 4;
  for (int slices = 1; slices <= 2; slices++)
    for (int round = 0; round < 100; round++) {
      int limit = 1 << (8 * slices - 1), counts[16] = {0}, expected = 0;
      for (int k = 0; k < 256; k++) {
        int x = round < 2 ? (round ? limit - 1 : -limit) : (int)(random_word(&seed) % (2u * (unsigned)limit)) - limit;
        if (round >= 2 && random_word(&seed) & 1) continue;
        expected += x;
        for (int bit = 0; bit < 8 * slices; bit++) counts[bit] += x >> bit & 1;
      }
      double sum = 0;
      for (int slice = 0; slice < slices; slice++)
        for (int q = 0; q < 4; q++) {
          uint32_t pair = (uint32_t)counts[8 * slice + 2 * q] | (uint32_t)counts[8 * slice + 2 * q + 1] << 16;
          uint32_t weights = bpdq_cuda_bit_weights(slice, slices, q);
          sum +=
              half_to_double(pair & 0xffff) * half_to_double(weights & 0xffff) + half_to_double(pair >> 16) * half_to_double(weights >> 16);
        }
      assert_true(sum == ldexp(expected, -24));
    }
}

/* Coefficients of rows r and r + 8 are neighbours, slots follow each other in a group, groups in a row tile; no two share a place. */
static void coefficients_have_places_of_their_own(void **context) {
  (void)context;
  enum { GROUPS = 5, TOTAL = ROW_TILES * GROUPS * (PLANES + 1) * 16 };
  bool taken[TOTAL] = {false};
  for (int n = 0; n < ROW_TILES * 16; n++)
    for (int group = 0; group < GROUPS; group++)
      for (int slot = 0; slot <= PLANES; slot++) {
        int64_t at = bpdq_cuda_coefficient(n, group, slot, PLANES, GROUPS);
        assert_in_range(at, 0, TOTAL - 1);
        assert_false(taken[at]);
        taken[at] = true;
        if (n % 16 < 8) assert_int_equal(bpdq_cuda_coefficient(n + 8, group, slot, PLANES, GROUPS), at + 1);
      }
}

/* m16n8k16: in k-step s of unit j, lane q's A registers a0 and a2 take the bit pairs (i, i + 16) of its plane word for i = 4j + 2s and
 * 4j + 2s + 1, and its b0 and b1 are halves 4s .. 4s + 3 of its 16 bytes. Both must mean the same columns. */
static void half_order_matches_the_bit_pairs(void **context) {
  (void)context;
  int column_at[128];
  for (int i = 0; i < 128; i++) column_at[i] = -1;
  for (int column = 0; column < 128; column++) {
    int position = bpdq_cuda_half_position(column);
    assert_in_range(position, 0, 127);
    assert_int_equal(column_at[position], -1);
    column_at[position] = column;
  }
  for (int j = 0; j < 4; j++)
    for (int step = 0; step < 2; step++)
      for (int q = 0; q < 4; q++)
        for (int reg = 0; reg < 2; reg++) {
          int bit = 4 * j + 2 * step + reg, base = j * 32 + q * 8 + step * 4 + reg * 2;
          assert_int_equal(column_at[base], 32 * q + bit);
          assert_int_equal(column_at[base + 1], 32 * q + bit + 16);
        }
}

static void caches_have_places_of_their_own(void **context) {
  (void)context;
  enum { HEADS = 2, CACHE_ROWS = 96, WIDTH = 32, TOTAL = HEADS * CACHE_ROWS * WIDTH };
  bool keys[TOTAL] = {false}, values[TOTAL] = {false};
  for (int head = 0; head < HEADS; head++)
    for (int row = 0; row < CACHE_ROWS; row++)
      for (int dim = 0; dim < WIDTH; dim++) {
        int64_t key = bpdq_cuda_key_index(head, row, CACHE_ROWS, WIDTH) + dim;
        int64_t value = bpdq_cuda_value_index(head, row, dim, CACHE_ROWS, WIDTH);
        assert_in_range(key, 0, TOTAL - 1);
        assert_in_range(value, 0, TOTAL - 1);
        assert_false(keys[key] || values[value]);
        keys[key] = values[value] = true;
      }
  /* Eight consecutive positions of one dim are 16 consecutive bytes: a lane's share of the values. */
  assert_int_equal(bpdq_cuda_value_index(1, 40, 5, CACHE_ROWS, WIDTH) + 7, bpdq_cuda_value_index(1, 47, 5, CACHE_ROWS, WIDTH));
}

/* 8-bit weights: PTX ISA, "Matrix fragments for mma.m16n8k32", with the columns of a step taken from a lane's 16 consecutive bytes: byte b
 * of register i of step t is byte 8t + 4 (i / 2) + b, as the kernel feeds it. Both operands then agree on which column is which. */
static void q8_weights_are_a_fragments(void **context) {
  (void)context;
  enum { ROWS = 32, COLUMN_TILES = 2, TOTAL = ROWS * COLUMN_TILES * 256 };
  static bool used[TOTAL];
  for (int row = 0; row < ROWS; row++)
    for (int column = 0; column < COLUMN_TILES * 256; column++) {
      int64_t index = bpdq_cuda_q8_index(row, column, COLUMN_TILES);
      assert_in_range(index, 0, TOTAL - 1);
      assert_false(used[index]);
      used[index] = true;
    }
  for (int lane = 0; lane < 32; lane++)
    for (int segment = 0; segment < 4; segment++)
      for (int upper = 0; upper < 2; upper++)
        for (int byte = 0; byte < 16; byte++) {
          int row = 16 + lane / 4 + 8 * upper, column = 256 + segment * 64 + lane % 4 * 16 + byte;
          int64_t loaded = (int64_t)((1 * COLUMN_TILES + 1) * 256 + segment * 64 + upper * 32 + lane) * 16 + byte;
          assert_int_equal(bpdq_cuda_q8_index(row, column, COLUMN_TILES), loaded);
        }
}

/* Bytes of activations against weights that are looked up by nibbles: in step u of a half, lane (row, q) takes the columns 4 i + u
 * (register b0) and 16 + 4 i + u (b1) of its plane word, i = 0 .. 3, as nibbles i and 4 + i of the word's selectors for u name them. */
static void byte_order_matches_the_nibbles(void **context) {
  (void)context;
  bool used[2048] = {false};
  for (int row = 0; row < 8; row++)
    for (int column = 0; column < 256; column++) {
      int index = bpdq_cuda_byte_index(row, column);
      assert_in_range(index, 0, 2047);
      assert_false(used[index]);
      used[index] = true;
    }
  for (int lane = 0; lane < 32; lane++)
    for (int half = 0; half < 2; half++)
      for (int u = 0; u < 4; u++)
        for (int b = 0; b < 2; b++)
          for (int i = 0; i < 4; i++) {
            int column = half * 128 + lane % 4 * 32 + b * 16 + 4 * i + u;
            int loaded = ((half * 2 + u / 2) * 32 + lane) * 16 + (u % 2 * 2 + b) * 4 + i; /* of four 16-byte loads of a warp */
            assert_int_equal(bpdq_cuda_byte_index(lane / 4, column), loaded);
          }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(planes_are_a_fragments),           cmocka_unit_test(activation_bits_are_b_fragments),
      cmocka_unit_test(counts_and_weights_give_the_sum),  cmocka_unit_test(coefficients_have_places_of_their_own),
      cmocka_unit_test(half_order_matches_the_bit_pairs), cmocka_unit_test(caches_have_places_of_their_own),
      cmocka_unit_test(q8_weights_are_a_fragments),       cmocka_unit_test(byte_order_matches_the_nibbles),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
