/* The random numbers of Python's `random` module, so that a choice made with the same seed is the same choice. */
#ifndef BPDQ_CLI_PYTHON_RANDOM_H
#define BPDQ_CLI_PYTHON_RANDOM_H

#include <stddef.h>
#include <stdint.h>

#define PYTHON_RANDOM_WORDS 624

typedef struct python_random {
  uint32_t state[PYTHON_RANDOM_WORDS];
  size_t used; /* words of the state that were handed out */
} python_random;

/* random.Random(seed) of a seed below 2^32. */
void python_random_seed(python_random *random, uint32_t seed);

/* random.sample(range(population), count): `count` <= population different numbers into chosen[count], in the order drawn.
 * pool[population] is scratch memory. */
void python_random_sample(python_random *random, uint32_t population, uint32_t count, uint32_t *chosen, uint32_t *pool);

#endif
