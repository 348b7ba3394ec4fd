"""Broken and unsupported checkpoints, each one deviation away from a good one, with words that the error must contain."""

import json
import os
import shutil
import struct

import numpy as np

from checkpoints import KINDS, make_checkpoint, write_json
from tensors import read_safetensors, write_safetensors

LAYER = "model.layers.1."


def edit_config(folder, change):
    path = os.path.join(folder, "config.json")
    with open(path) as file:
        config = json.load(file)
    change(config)
    write_json(folder, "config.json", config)


def set_config(**values):
    return lambda folder: edit_config(folder, lambda config: config.update(values))


def set_quantization(**values):
    return lambda folder: edit_config(folder, lambda config: config["quantization_config"].update(values))


def edit_tensors(change):
    def apply(folder):
        path = os.path.join(folder, "model.safetensors")
        tensors = read_safetensors(path)
        change(tensors)
        write_safetensors(path, tensors)

    return apply


def edit_header(change):
    """Changes the header alone, keeping the data section."""

    def apply(folder):
        path = os.path.join(folder, "model.safetensors")
        with open(path, "rb") as file:
            data = file.read()
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return apply


def edit_bytes(change):
    def apply(folder):
        path = os.path.join(folder, "model.safetensors")
        with open(path, "rb") as file:
            data = file.read()
        with open(path, "wb") as file:
            file.write(change(data))

    return apply


def poison(module, value):
    """Puts one bf16 bit pattern among the coefficients of a linear."""

    def change(tensors):
        dtype, array = tensors[LAYER + module + ".c"]
        array = array.copy()
        array[1, 0, 7] = value
        tensors[LAYER + module + ".c"] = (dtype, array)

    return edit_tensors(change)


def transpose_bits(tensors):
    dtype, array = tensors[LAYER + "mlp.up_proj.B"]
    tensors[LAYER + "mlp.up_proj.B"] = (dtype, np.ascontiguousarray(array.transpose(2, 1, 0)))


def write_file(name, data):
    def apply(folder):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)

    return apply


def remove_file(name):
    return lambda folder: os.remove(os.path.join(folder, name))


def overlap(header):
    begin, end = header[LAYER + "mlp.up_proj.B"]["data_offsets"]
    header[LAYER + "mlp.up_proj.B"]["data_offsets"] = [begin - 4, end - 4]


def retype(header):
    header[LAYER + "input_layernorm.weight"]["dtype"] = "I16"


def escape(folder):
    path = os.path.join(folder, "model.safetensors.index.json")
    with open(path) as file:
        index = json.load(file)
    index["weight_map"] = {name: "../" + shard for name, shard in index["weight_map"].items()}
    write_json(folder, "model.safetensors.index.json", index)


SHARD = "model-00002-of-00002.safetensors"

# name: (kind of the good checkpoint, deviation, words in the error)
HOSTILE = {
    "header-truncated": ("qwen2-k2-g64", edit_bytes(lambda data: data[:100]), ["model.safetensors", "header"]),
    "header-length-huge": ("qwen2-k2-g64", edit_bytes(lambda data: struct.pack("<Q", 1 << 62) + data[8:]), ["model.safetensors", "header"]),
    "file-empty": ("qwen2-k2-g64", edit_bytes(lambda data: b""), ["model.safetensors", "too short"]),
    "header-deep": ("qwen2-k2-g64", edit_bytes(lambda data: struct.pack("<Q", 100005) + b'{"a":' + b"[" * 100000), ["nested"]),
    "data-truncated": ("qwen2-k2-g64", edit_bytes(lambda data: data[:-64]), ["model.safetensors", "outside"]),
    "data-too-long": ("qwen2-k2-g64", edit_bytes(lambda data: data + b"x"), ["model.safetensors", "behind the last tensor"]),
    "offsets-overlap": ("qwen2-k2-g64", edit_header(overlap), [LAYER + "mlp.up_proj.B"]),
    "dtype-wrong": ("qwen2-k2-g64", edit_header(retype), [LAYER + "input_layernorm.weight", "I16"]),
    "shape-wrong": ("qwen2-k2-g64", edit_tensors(transpose_bits), [LAYER + "mlp.up_proj.B"]),
    "tensor-missing": ("qwen2-k2-g64", edit_tensors(lambda tensors: tensors.pop(LAYER + "mlp.up_proj.c")), [LAYER + "mlp.up_proj.c"]),
    "head-missing": ("qwen2-k2-g64", edit_tensors(lambda tensors: tensors.pop("lm_head.weight")), ["lm_head.weight"]),
    "shard-missing": ("qwen2-sharded", remove_file(SHARD), [SHARD]),
    "shard-outside": ("qwen2-sharded", escape, ["../", "inside the folder"]),
    "coefficient-nan": ("qwen2-k2-g64", poison("mlp.down_proj", 0x7FC0), [LAYER + "mlp.down_proj", "NaN"]),
    "coefficient-infinite": ("qwen2-k2-g64", poison("mlp.up_proj", 0xFF80), [LAYER + "mlp."]),
    "config-missing": ("qwen2-k2-g64", remove_file("config.json"), ["config.json"]),
    "config-deep": ("qwen2-k2-g64", write_file("config.json", b'{"a":' + b"[" * 100000), ["config.json", "nested"]),
    "config-zero": ("qwen2-k2-g64", set_config(hidden_size=0), ["hidden_size"]),
    "config-huge": ("qwen2-k2-g64", set_config(vocab_size=1 << 40), ["vocab_size"]),
    "config-other-shape": ("qwen2-k2-g64", set_config(intermediate_size=352), ["mlp.gate_proj"]),
    "config-architecture": ("qwen2-k2-g64", set_config(model_type="mamba", architectures=["MambaForCausalLM"]), ["mamba"]),
    "config-window": ("qwen2-k2-g64", set_config(use_sliding_window=True, sliding_window=16, max_window_layers=1), ["sliding_window 16"]),
    "config-rope": ("qwen2-k2-g64", set_config(rope_scaling={"type": "dynamic", "factor": 2.0}), ["dynamic"]),
    "config-rotation": ("qwen2-k2-g64", set_quantization(rotation="hadamard"), ["hadamard"]),
    "config-method": ("qwen2-k2-g64", set_quantization(quant_method="awq"), ["awq"]),
    "tokenizer-missing": ("qwen2-k2-g64", remove_file("tokenizer.json"), ["tokenizer.json"]),
    "tokenizer-not-utf8": ("qwen2-k2-g64", write_file("tokenizer.json", b'{"a":"\xff"}'), ["tokenizer.json"]),
}


def make_hostile(folder, name):
    """Writes the folder anew, with the words in expected-error.json."""
    kind, deviate, words = HOSTILE[name]
    shutil.rmtree(folder, ignore_errors=True)
    make_checkpoint(folder, kind, KINDS[kind])
    deviate(folder)
    write_json(folder, "expected-error.json", words)
