"""compare_with_transformers.py FOLDER...: forward.py against Hugging Face transformers in float64, where torch is installed.

Bit-plane linears are dequantized first, so that the model class itself is the reference for everything else.
"""

import os
import sys

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from forward import Checkpoint, forward
from tensors import dequantize, read_safetensors, to_float


def dense_state(checkpoint):
    """{name: float64 tensor} with a weight for each bit-plane linear, under the full names."""
    state = {}
    for name, stored in checkpoint.stored.items():
        full = name if checkpoint.prefix or name.startswith("lm_head") else "model." + name
        if name.endswith(".B"):
            coefficients = to_float(checkpoint.stored[name[:-2] + ".c"])
            state[full[:-2] + ".weight"] = torch.tensor(dequantize(coefficients, stored[1], stored[1].shape[0] * 32))
        elif not name.endswith(".c"):
            state[full] = torch.tensor(to_float(stored))
    return state


def transformers_logits(folder, checkpoint, ids):
    config = AutoConfig.from_pretrained(folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    state = dense_state(checkpoint)
    config.tie_word_embeddings = config.tie_word_embeddings and "lm_head.weight" not in state
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(torch.float64).eval()
    expected = model.state_dict()
    for name, tensor in state.items():
        if tensor.dim() == 2:
            state[name] = tensor[:, : expected[name].shape[1]]  # drops padded columns
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    with torch.no_grad():
        return model(torch.tensor(np.array(ids), dtype=torch.int64)[None]).logits[0].numpy()


def main():
    worst = 0.0
    for folder in sys.argv[1:]:
        checkpoint = Checkpoint(folder)
        stored = read_safetensors(os.path.join(folder, "expected.safetensors"))
        ids = stored["ids"][1] if "ids" in stored else np.arange(1, 100, 3)
        reference = transformers_logits(folder, checkpoint, ids)
        error = np.abs(forward(checkpoint, ids) - reference).max() / np.abs(reference).max()
        worst = max(worst, error)
        print(f"{folder}: {len(ids)} tokens, largest error {error:.2e} of the largest logit")
    return int(not worst < 1e-4)


if __name__ == "__main__":
    sys.exit(main())
