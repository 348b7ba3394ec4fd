"""The decoder in numpy float64: the oracle for logits of dense and bit-plane checkpoints (Llama, Mistral, Qwen2, Qwen3).

Formulas follow Hugging Face transformers 5; the angles of the rotary embedding are rounded to float32 as there.
"""

import glob
import json
import math
import os
import sys

import numpy as np

from tensors import dequantize, read_safetensors, to_float

CONTEXT_DEFAULTS = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768}


class Checkpoint:
    """A model folder: its config, and its tensors as float64."""

    def __init__(self, folder):
        with open(os.path.join(folder, "config.json")) as file:
            self.config = json.load(file)
        self.stored = {}
        for path in glob.glob(os.path.join(folder, "model*.safetensors")):
            self.stored.update(read_safetensors(path))
        self.prefix = "model." if "model.embed_tokens.weight" in self.stored else ""

    def vector(self, name):
        """A tensor of the decoder, or None."""
        stored = self.stored.get(self.prefix + name)
        return None if stored is None else to_float(stored)

    def linear(self, name, columns):
        """Weight [N, K] of a dense or bit-plane linear."""
        if name + ".B" in self.stored:
            return dequantize(to_float(self.stored[name + ".c"]), self.stored[name + ".B"][1], columns)
        return to_float(self.stored[name + ".weight"])

    def head(self, hidden):
        tied = self.config.get("tie_word_embeddings", False) and "lm_head.B" not in self.stored
        return self.vector("embed_tokens.weight") if tied else self.linear("lm_head", hidden)


def rope_settings(config):
    settings = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    settings.setdefault("rope_type", settings.get("type", "default"))
    settings.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    context = config.get("max_position_embeddings", CONTEXT_DEFAULTS[config["model_type"]])
    original = config.get("original_max_position_embeddings", settings.get("original_max_position_embeddings", context))
    settings["original_max_position_embeddings"] = original
    settings.setdefault("factor", context / original)
    return settings


def yarn_frequencies(settings, frequencies, dim):
    """YaRN (arXiv 2309.00071): short wavelengths stay, long ones are interpolated, a ramp in between."""
    base, factor, original = settings["rope_theta"], settings["factor"], settings["original_max_position_embeddings"]

    def attention_scale(scale, weight=1.0):
        return 1.0 if scale <= 1 else 0.1 * weight * math.log(scale) + 1.0

    attention_factor = settings.get("attention_factor")
    mscale, mscale_all_dim = settings.get("mscale"), settings.get("mscale_all_dim")
    if attention_factor is None and mscale and mscale_all_dim:
        attention_factor = attention_scale(factor, mscale) / attention_scale(factor, mscale_all_dim)
    elif attention_factor is None:
        attention_factor = attention_scale(factor)

    def dimension_of(rotations):
        """Where a frequency makes this many rotations over the original context."""
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension_of(settings.get("beta_fast") or 32), dimension_of(settings.get("beta_slow") or 1)
    if settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
    return frequencies / factor * ramp + frequencies * (1 - ramp), attention_factor


def llama3_frequencies(settings, frequencies):
    factor, original = settings["factor"], settings["original_max_position_embeddings"]
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    wavelengths = 2 * math.pi / frequencies
    smooth = (original / wavelengths - low) / (high - low)
    between = (1 - smooth) * frequencies / factor + smooth * frequencies
    scaled = np.where(wavelengths > original / low, frequencies / factor, frequencies)
    return np.where((wavelengths <= original / low) & (wavelengths >= original / high), between, scaled)


def rope_frequencies(config, dim):
    """(angle per position [dim / 2], factor on cosine and sine)."""
    settings = rope_settings(config)
    frequencies = 1.0 / settings["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    if settings["rope_type"] == "linear":
        return frequencies / settings["factor"], 1.0
    if settings["rope_type"] == "llama3":
        return llama3_frequencies(settings, frequencies), 1.0
    if settings["rope_type"] == "yarn":
        return yarn_frequencies(settings, frequencies, dim)
    return frequencies, 1.0


def rms_norm(x, weight, epsilon):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon) * weight


def rotate(x, cosine, sine):
    """x [tokens, heads, dim]; the two halves of a head are the parts of the rotated pairs."""
    half = x.shape[-1] // 2
    turned = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return x * cosine[:, None, :] + turned * sine[:, None, :]


def attention(q, k, v):
    """Causal, grouped: q [tokens, heads, dim], k and v [tokens, kv_heads, dim] -> [tokens, heads * dim]."""
    tokens, heads, dim = q.shape
    k, v = (np.repeat(x, heads // k.shape[1], axis=1) for x in (k, v))
    scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(dim)
    scores = np.where(np.tril(np.ones((tokens, tokens), bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("hij,jhd->ihd", weights, v).reshape(tokens, heads * dim)


def forward(checkpoint, ids):
    """Logits float64 [tokens, vocab] of one sequence."""
    config = checkpoint.config
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    dim = config.get("head_dim") or hidden // heads
    epsilon = config.get("rms_norm_eps", 1e-6)
    frequencies, scale = rope_frequencies(config, dim)
    angles = np.arange(len(ids))[:, None] * np.float32(frequencies)[None, :]
    cosine, sine = (np.tile(function(angles), 2) * scale for function in (np.cos, np.sin))

    def linear(name, x):
        weight = checkpoint.linear(checkpoint.prefix + name, x.shape[1])
        bias = checkpoint.vector(name + ".bias")
        return x @ weight.T + (0 if bias is None else bias)

    x = checkpoint.vector("embed_tokens.weight")[ids]
    for layer in range(config["num_hidden_layers"]):
        part = f"layers.{layer}."
        normed = rms_norm(x, checkpoint.vector(part + "input_layernorm.weight"), epsilon)
        q, k, v = (linear(f"{part}self_attn.{name}_proj", normed).reshape(len(ids), -1, dim) for name in "qkv")
        assert q.shape[1] == heads and k.shape[1] == v.shape[1] == kv_heads
        if config["model_type"] == "qwen3":
            q = rms_norm(q, checkpoint.vector(part + "self_attn.q_norm.weight"), epsilon)
            k = rms_norm(k, checkpoint.vector(part + "self_attn.k_norm.weight"), epsilon)
        mixed = attention(rotate(q, cosine, sine), rotate(k, cosine, sine), v)
        x = x + linear(part + "self_attn.o_proj", mixed)
        normed = rms_norm(x, checkpoint.vector(part + "post_attention_layernorm.weight"), epsilon)
        gate, up = linear(part + "mlp.gate_proj", normed), linear(part + "mlp.up_proj", normed)
        x = x + linear(part + "mlp.down_proj", gate / (1 + np.exp(-gate)) * up)
    x = rms_norm(x, checkpoint.vector("norm.weight"), epsilon)
    return x @ checkpoint.head(hidden).T


def main():
    """forward.py FOLDER...: compares with FOLDER/expected.safetensors; ids from there or from expected.json."""
    failed = False
    for folder in sys.argv[1:]:
        expected = read_safetensors(os.path.join(folder, "expected.safetensors"))
        logits = to_float(expected["logits"])
        if "ids" in expected:
            ids = expected["ids"][1]
        else:
            with open(os.path.join(folder, "expected.json")) as file:
                ids = np.array(json.load(file)["prompt_ids"])
        ids = ids[: len(logits)]
        error = np.abs(forward(Checkpoint(folder), ids) - logits).max() / np.abs(logits).max()
        failed |= not error < 1e-3
        print(f"{folder}: {len(ids)} tokens, largest error {error:.2e} of the largest logit")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
