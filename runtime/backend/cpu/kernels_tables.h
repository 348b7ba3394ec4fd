/* What the instruction sets with a byte shuffle share about the tables of cpu_kernels.h: their scale and their place. */
#include <float.h>

/* Subset sums are formed as 31-bit integers x * inverse; the digits kept are the ones above `shift` bits, and one unit of what is
 * kept stands for `unit`. */
typedef struct table_scale {
  float inverse, unit;
  int shift;
} table_scale;

/* `largest` is the largest sum of 4 neighbouring |x| of a group, `sum` its sum of x (not finite where an x is not). With f32 activations
 * the factor is a power of two, so that an activation loses only what lies below 2^-30 of the largest sum. */
static inline table_scale table_scale_of(float largest, float sum, int digits) {
  table_scale scale = {0, 0, digits == 1 ? 23 : digits == 2 ? 15 : 0};
  if (!(largest <= FLT_MAX) || !(sum >= -FLT_MAX && sum <= FLT_MAX)) {
    scale.unit = NAN;
  } else if (largest > 1e-28f) {
    if (digits == 4) {
      int exponent;
      frexpf(largest, &exponent); /* largest < 2^exponent */
      scale.inverse = ldexpf(1.0f, 31 - exponent);
      scale.unit = ldexpf(1.0f, exponent - 31);
    } else {
      /* One unit below the digits' range: the offset is rounded up to whole units. */
      scale.unit = largest / (digits == 1 ? 254.0f : 65534.0f);
      scale.inverse = (digits == 1 ? 0x1p23f : 0x1p15f) / scale.unit;
    }
  }
  return scale;
}

/* Where the table of columns 4 i ... 4 i + 3 of a group starts: nibbles of a word alternate between the low and high halves of its
 * bytes. Digits are 64 bytes apart. */
static inline int table_position(int i, int digits) { return ((i / 8 * 2 + i % 2) * digits) * 64 + i % 8 / 2 * 16; }

/* Calls product(planes, tile, tables, digits, type, y) with constants for digits and the coefficients' type. */
#define TABLE_PRODUCT_BY_DIGITS(product, planes, tile, tables, type, y) \
  do {                                                                  \
    if ((tables)->digits == 1)                                          \
      product(planes, tile, tables, 1, type, y);                        \
    else if ((tables)->digits == 2)                                     \
      product(planes, tile, tables, 2, type, y);                        \
    else                                                                \
      product(planes, tile, tables, 4, type, y);                        \
  } while (0)
#define TABLE_PRODUCT_BY_TYPE(product, planes, tile, tables, y)             \
  do {                                                                      \
    if ((planes)->coefficient_type == BPDQ_BF16)                            \
      TABLE_PRODUCT_BY_DIGITS(product, planes, tile, tables, BPDQ_BF16, y); \
    else if ((planes)->coefficient_type == BPDQ_F16)                        \
      TABLE_PRODUCT_BY_DIGITS(product, planes, tile, tables, BPDQ_F16, y);  \
    else                                                                    \
      TABLE_PRODUCT_BY_DIGITS(product, planes, tile, tables, BPDQ_F32, y);  \
  } while (0)
