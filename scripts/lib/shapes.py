"""The shapes that `bpdq bench --shape` knows (runtime/model/random.c), and the least that a device must hold for one."""

# layers, hidden, intermediate, vocabulary, heads, key and value heads
SHAPES = {"tiny": (2, 128, 320, 4096, 4, 2),
          "qwen2.5-0.5b": (24, 896, 4864, 151936, 14, 2),
          "qwen2.5-1.5b": (28, 1536, 8960, 151936, 12, 2),
          "llama-3.2-1b": (16, 2048, 8192, 128256, 32, 8),
          "qwen2.5-7b": (28, 3584, 18944, 152064, 28, 4),
          "qwen2.5-72b": (80, 8192, 29568, 152064, 64, 8)}


def device_bytes(shape, planes, group, positions, kv):
    """Bit-planes with their bf16 coefficients, a head of 8 bits and the cache of keys and values; activations come on top."""
    layers, hidden, inner, vocabulary, heads, kv_heads = SHAPES[shape]
    width = hidden // heads
    weights = layers * hidden * (2 * hidden + 2 * kv_heads * width + 3 * inner)
    entry = width + 4 if kv == "q8" else 2 * width
    return weights * (planes + 16 * (planes + 1) / group) / 8 + vocabulary * hidden + positions * layers * 2 * kv_heads * entry
