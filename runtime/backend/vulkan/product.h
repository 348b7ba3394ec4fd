/* One linear operation on its way to dispatches: what the kernels of products share (ops_linear.c), the products of integers
 * (ops_dot.c) and those of bits (ops_bits.c). */
#ifndef BPDQ_VULKAN_PRODUCT_H
#define BPDQ_VULKAN_PRODUCT_H

#include "backend/vulkan/builder.h"

/* One linear operation, checked. */
typedef struct vulkan_product {
  const bpdq_op_linear *op;
  const bpdq_weight *weight;
  const vulkan_tensor *input, *output;
  bpdq_transform_kind transform; /* left to the kernel; NONE where it was done before */
  vulkan_binding norm;
  bool last, one; /* one: the program has one row */
} vulkan_product;

/* What linear.glsl declares: the output, the bias and the constants. `x_stride` is in elements of the input that the kernel reads. */
void bpdq_vulkan_bind_product(vulkan_dispatch *dispatch, const vulkan_product *p, const vulkan_piece *piece, int64_t x_stride);
/* Grid of `rows_per_group` rows by tokens. */
void bpdq_vulkan_grid_product(vulkan_dispatch *dispatch, const vulkan_product *p, const vulkan_piece *piece, uint32_t rows_per_group,
                              uint32_t tokens_per_group);

/* Makes the input integers (prepared.glsl) by a dispatch of its own. `shader`: "quantize", or "quantize_plain" in the order of the columns;
 * a row has `blocks` of 128 columns. */
bpdq_status bpdq_vulkan_add_quantize(vulkan_builder *builder, const vulkan_product *p, const char *shader, int64_t blocks, bool wide,
                                     bpdq_error *error);
/* Few rows times planes, by integer dot products; makes the input integers where that has not been done. */
bpdq_status bpdq_vulkan_add_dot(vulkan_builder *builder, const vulkan_product *p, bool wide, bpdq_error *error);

/* ---- ops_bits.c: of VULKAN_BITS_TOKENS rows at most, where a thread's elements of a cooperative matrix are known ---- */

#define VULKAN_BITS_TOKENS 16
/* Times planes, as bits. */
bpdq_status bpdq_vulkan_add_bits(vulkan_builder *builder, const vulkan_product *p, bpdq_error *error);
/* Times a dense matrix of 8-bit weights. */
bpdq_status bpdq_vulkan_add_head_matrix(vulkan_builder *builder, const vulkan_product *p, bpdq_error *error);

#endif
