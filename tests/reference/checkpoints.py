"""Small random checkpoints of every kind that the runtime reads, each with the logits it must give."""

import json
import math
import os
import zlib

import numpy as np

from forward import Checkpoint, forward
from tensors import pack_planes, to_stored, write_safetensors

VOCAB = 288
TOKENS = 40
CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}

# name: what differs from qwen2, k=2, g=64, bf16. "config" goes into config.json as it is, "omit" names keys left out of it.
KINDS = {
    "qwen2-k2-g64": dict(),
    "llama-k1-g32-f32c": dict(model="llama", planes=1, group=32, c_dtype="F32"),
    "mistral-k4-g128-f16c": dict(model="mistral", planes=4, group=128, dtype="F16", c_dtype="F16", hidden=192,
                                 config={"sliding_window": None, "head_dim": 64, "num_key_value_heads": 2}),
    "qwen3-k2-g64": dict(model="qwen3", config={"head_dim": 64, "tie_word_embeddings": True}),
    "qwen3-bias-k3-g96": dict(model="qwen3", planes=3, group=96, config={"head_dim": 32, "attention_bias": True}),
    "llama31-k3-g64": dict(model="llama", planes=3, tokens=120,
                           config={"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE, "max_position_embeddings": 512}),
    "llama31-rope-parameters": dict(model="llama", tokens=120, config={"rope_parameters": {**LLAMA3_ROPE, "rope_theta": 500000.0}}),
    "qwen2-yarn-k2-g32": dict(group=32, tokens=120, config={
        "rope_theta": 10000.0, "max_position_embeddings": 256,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}),
    "qwen3-yarn-mscale": dict(model="qwen3", tokens=120, config={
        "head_dim": 64, "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64,
                            "mscale": 0.707, "mscale_all_dim": 0.5, "beta_fast": 16, "beta_slow": 2, "truncate": False}}),
    "llama-yarn-attention-factor": dict(model="llama", tokens=120, config={
        "max_position_embeddings": 256,
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.25, "original_max_position_embeddings": 128}}),
    "llama-linear-rope-g160": dict(model="llama", group=160, hidden=160, tokens=120,
                                   config={"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "llama-bias": dict(model="llama", config={"attention_bias": True, "mlp_bias": True}),
    "qwen2-sharded": dict(shards=2),
    "qwen2-dynamic": dict(dynamic={
        r"+:model\.layers\.0\.self_attn\..*": {"meta": {"bpdq": {"msbits": 4}}, "group_size": 32},
        r"model\.layers\.1\.mlp\.up_proj": {"msbits": 3},
        r"-:.*\.1\.mlp\.down_proj": {}}),
    "llama-k8-g256-padded": dict(model="llama", planes=8, group=256),
    "llama-lm-head-k4": dict(model="llama", planes=4, lm_head=True),
    "qwen2-lm-head-tied": dict(planes=6, lm_head=True, config={"tie_word_embeddings": True}),
    "qwen2-k5-g224-settings-differ": dict(planes=5, group=224, claimed={"group_size": 64, "msbits": 2}),
    "qwen2-bare-names": dict(bare=True, config={"tie_word_embeddings": True}),
    "llama-k7-g192-kv1": dict(model="llama", planes=7, group=192, config={"num_key_value_heads": 1}),
    "qwen2-dense-f32": dict(planes=0, dtype="F32"),
    "mistral-dense-f16": dict(planes=0, model="mistral", dtype="F16", omit=["num_key_value_heads"],
                              config={"sliding_window": 4096, "num_attention_heads": 8}),
    "llama-dense-bf16-sharded": dict(planes=0, model="llama", shards=3, config={"num_key_value_heads": None}),
    "qwen3-dense-bf16-tied": dict(planes=0, model="qwen3", config={"head_dim": 48, "tie_word_embeddings": True}),
}


def random_planes(random, rows, columns, planes, group, scale, c_dtype):
    """A bit-plane linear whose levels are spread like weights of the given standard deviation: (c stored, B stored)."""
    groups = math.ceil(columns / group)
    bits = random.integers(0, 2, (rows, planes, groups * group), dtype=np.uint8)
    steps = 2.0 ** np.arange(planes)[None, :, None] * random.uniform(0.6, 1.4, (groups, planes, rows))
    steps *= 2 * scale / np.sqrt((steps**2).sum(axis=1, keepdims=True))
    bias = -0.5 * steps.sum(axis=1, keepdims=True) + random.normal(0, 0.1 * scale, (groups, 1, rows))
    return to_stored(np.concatenate([steps, bias], axis=1), c_dtype), ("I32", pack_planes(bits))


def make_config(kind, hidden):
    model = kind.get("model", "qwen2")
    config = {"architectures": [CLASSES[model]], "model_type": model, "vocab_size": VOCAB, "hidden_size": hidden,
              "intermediate_size": hidden * 5 // 2, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
              "hidden_act": "silu", "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "bos_token_id": None,
              "eos_token_id": VOCAB - 1, "tie_word_embeddings": False,
              "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[kind.get("dtype", "BF16")]}
    config.update(kind.get("config", {}))
    config = {key: value for key, value in config.items() if key not in kind.get("omit", [])}
    if "rope_parameters" not in config:
        config.setdefault("rope_theta", 10000.0)
    return config


def make_settings(kind):
    claimed = kind.get("claimed", {})
    settings = {"bits": 8, "group_size": claimed.get("group_size", kind.get("group", 64)), "desc_act": False, "sym": False,
                "lm_head": kind.get("lm_head", False), "quant_method": "bpdq", "checkpoint_format": "bpdq", "pack_dtype": "int32",
                "meta": {"bpdq": {"msbits": claimed.get("msbits", kind.get("planes", 2)), "n_iters": 10, "alpha": 0.0001}},
                "rotation": None}
    if "dynamic" in kind:
        settings["dynamic"] = kind["dynamic"]
    return settings


def module_settings(kind, module):
    """(planes, group) of one linear, from the kind; the dynamic rules of KINDS are few enough to be spelled out here."""
    planes, group = kind.get("planes", 2), kind.get("group", 64)
    if "dynamic" in kind:
        if "layers.0.self_attn" in module:
            return 4, 32
        if module == "model.layers.1.mlp.up_proj":
            return 3, group
        if module == "model.layers.1.mlp.down_proj":
            return 0, 0
    return planes, group


def add_linear(tensors, random, kind, module, rows, columns, scale, bias):
    planes, group = module_settings(kind, module)
    if module == "lm_head" and not kind.get("lm_head"):
        planes = 0
    dtype = kind.get("dtype", "BF16")
    if planes:
        tensors[module + ".c"], tensors[module + ".B"] = random_planes(random, rows, columns, planes, group, scale,
                                                                       kind.get("c_dtype", "BF16"))
    else:
        tensors[module + ".weight"] = to_stored(random.normal(0, scale, (rows, columns)), dtype)
    if bias:
        tensors[module + ".bias"] = to_stored(random.normal(0, 0.3, rows), dtype)


def make_tensors(random, kind, config):
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    kv_heads, dim = config.get("num_key_value_heads") or heads, config.get("head_dim") or hidden // heads
    model, dtype = config["model_type"], kind.get("dtype", "BF16")
    attention_bias, mlp_bias = config.get("attention_bias", False), config.get("mlp_bias", False)
    tensors = {"model.embed_tokens.weight": to_stored(random.normal(0, 1, (VOCAB, hidden)), dtype)}

    def add_norm(name, length):
        tensors[name + ".weight"] = to_stored(random.uniform(0.6, 1.4, length), dtype)

    for layer in range(config["num_hidden_layers"]):
        part = f"model.layers.{layer}."
        add_norm(part + "input_layernorm", hidden)
        add_norm(part + "post_attention_layernorm", hidden)
        if model == "qwen3":
            add_norm(part + "self_attn.q_norm", dim)
            add_norm(part + "self_attn.k_norm", dim)
        # Queries and keys are drawn larger, so that attention is not flat and the rotary angles matter.
        sharp = 1.6 / math.sqrt(hidden)
        qkv_bias = attention_bias or model == "qwen2"
        add_linear(tensors, random, kind, part + "self_attn.q_proj", heads * dim, hidden, sharp, qkv_bias)
        add_linear(tensors, random, kind, part + "self_attn.k_proj", kv_heads * dim, hidden, sharp, qkv_bias)
        add_linear(tensors, random, kind, part + "self_attn.v_proj", kv_heads * dim, hidden, 1 / math.sqrt(hidden), qkv_bias)
        add_linear(tensors, random, kind, part + "self_attn.o_proj", hidden, heads * dim, 1 / math.sqrt(heads * dim), attention_bias)
        add_linear(tensors, random, kind, part + "mlp.gate_proj", inner, hidden, 1 / math.sqrt(hidden), mlp_bias)
        add_linear(tensors, random, kind, part + "mlp.up_proj", inner, hidden, 1 / math.sqrt(hidden), mlp_bias)
        add_linear(tensors, random, kind, part + "mlp.down_proj", hidden, inner, 1 / math.sqrt(inner), mlp_bias)
    add_norm("model.norm", hidden)
    if not config["tie_word_embeddings"] or kind.get("lm_head"):
        add_linear(tensors, random, kind, "lm_head", VOCAB, hidden, 2 / math.sqrt(hidden), False)
    return tensors


def write_tokenizer(folder):
    """Byte-level BPE without merges: id = rank of the byte's printable stand-in, then unused special tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    stand_in = {byte: byte for byte in printable}
    for byte in range(256):
        stand_in.setdefault(byte, 256 + len(stand_in) - len(printable))
    vocabulary = {chr(stand_in[byte]): byte for byte in range(256)}
    special = [{"id": 256 + i, "content": f"<|special_{i}|>", "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i in range(VOCAB - 256)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
                 "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
                 "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                           "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary, "merges": []}}
    write_json(folder, "tokenizer.json", tokenizer)
    write_json(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": special[-1]["content"]})


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w") as file:
        json.dump(value, file, indent=1)


def write_weights(folder, tensors, shards):
    if shards == 1:
        write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
        return
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file_name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        write_safetensors(os.path.join(folder, file_name), {name: tensors[name] for name in part})
        weight_map.update({name: file_name for name in part})
    write_json(folder, "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def make_checkpoint(folder, name, kind):
    os.makedirs(folder, exist_ok=True)
    random = np.random.default_rng(zlib.crc32(name.encode()))
    config = make_config(kind, kind.get("hidden", 128))
    tensors = make_tensors(random, kind, config)
    if kind.get("planes", 2):
        config["quantization_config"] = make_settings(kind)
        write_json(folder, "quantize_config.json", config["quantization_config"])
    if kind.get("bare"):
        tensors = {tensor.removeprefix("model."): value for tensor, value in tensors.items()}
    write_json(folder, "config.json", config)
    write_tokenizer(folder)
    write_weights(folder, tensors, kind.get("shards", 1))
    ids = random.integers(0, VOCAB, kind.get("tokens", TOKENS)).astype(np.int32)
    logits = forward(Checkpoint(folder), ids)
    write_safetensors(os.path.join(folder, "expected.safetensors"), {"logits": ("F32", logits), "ids": ("I32", ids)})
    return logits
