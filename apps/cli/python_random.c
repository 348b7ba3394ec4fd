/* MT19937 (Matsumoto and Nishimura 1998) seeded by array, and what CPython's Lib/random.py makes of it. */
#include "python_random.h"

#include <stdbool.h>

#define WORDS PYTHON_RANDOM_WORDS
#define MIDDLE 397

void python_random_seed(python_random *random, uint32_t seed) {
  uint32_t *state = random->state;
  state[0] = 19650218;
  for (uint32_t i = 1; i < WORDS; i++) state[i] = 1812433253u * (state[i - 1] ^ state[i - 1] >> 30) + i;
  /* init_by_array with a key of one word. */
  size_t i = 1;
  for (int step = 0; step < 2; step++) {
    uint32_t factor = step ? 1566083941u : 1664525u;
    for (size_t left = WORDS - (step ? 1 : 0); left; left--) {
      uint32_t mixed = state[i] ^ (state[i - 1] ^ state[i - 1] >> 30) * factor;
      state[i] = step ? mixed - (uint32_t)i : mixed + seed;
      if (++i < WORDS) continue;
      state[0] = state[WORDS - 1];
      i = 1;
    }
  }
  state[0] = 0x80000000u;
  random->used = WORDS;
}

static void renew(uint32_t *state) {
  for (size_t i = 0; i < WORDS; i++) {
    uint32_t joined = (state[i] & 0x80000000u) | (state[(i + 1) % WORDS] & 0x7fffffffu);
    state[i] = state[(i + MIDDLE) % WORDS] ^ joined >> 1 ^ (joined & 1 ? 0x9908b0dfu : 0);
  }
}

static uint32_t next_word(python_random *random) {
  if (random->used == WORDS) {
    renew(random->state);
    random->used = 0;
  }
  uint32_t word = random->state[random->used++];
  word ^= word >> 11;
  word ^= word << 7 & 0x9d2c5680u;
  word ^= word << 15 & 0xefc60000u;
  return word ^ word >> 18;
}

/* A number below `limit` >= 1: as many of the upper bits as the limit has, drawn until they are below it. */
static uint32_t below(python_random *random, uint32_t limit) {
  int bits = 32 - __builtin_clz(limit);
  uint32_t number;
  do number = next_word(random) >> (32 - bits);
  while (number >= limit);
  return number;
}

static bool holds(const uint32_t *numbers, uint32_t count, uint32_t number) {
  for (uint32_t i = 0; i < count; i++)
    if (numbers[i] == number) return true;
  return false;
}

/* Up to this population sample() draws from a list that shrinks; it remembers what it has drawn where that takes less memory. */
static uint64_t largest_pool(uint32_t count) {
  uint64_t size = 21, table = 1;
  if (count <= 5) return size;
  while (table < (uint64_t)3 * count) table *= 4;
  return size + table;
}

void python_random_sample(python_random *random, uint32_t population, uint32_t count, uint32_t *chosen, uint32_t *pool) {
  if (population > largest_pool(count)) {
    for (uint32_t i = 0; i < count; i++) {
      do chosen[i] = below(random, population);
      while (holds(chosen, i, chosen[i]));
    }
    return;
  }
  for (uint32_t i = 0; i < population; i++) pool[i] = i;
  for (uint32_t i = 0; i < count; i++) {
    uint32_t place = below(random, population - i);
    chosen[i] = pool[place];
    pool[place] = pool[population - i - 1];
  }
}
