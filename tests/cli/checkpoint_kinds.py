"""Every kind of checkpoint gives the logits of the numpy decoder on the CPU backend, with exact activations."""

import os
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference"))
from checkpoints import KINDS, make_checkpoint  # noqa: E402
from tensors import read_safetensors  # noqa: E402

TOLERANCE = 2e-3  # of the largest logit


def error_of(program, folder):
    """Largest deviation from expected.safetensors, relative to its largest magnitude."""
    expected = read_safetensors(os.path.join(folder, "expected.safetensors"))
    ids = ",".join(str(token) for token in expected["ids"][1])
    output = os.path.join(folder, "logits.safetensors")
    command = [program, "logits", folder, "--ids", ids, "-o", output, "--backend", "cpu", "--activations", "f32"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if result.returncode != 0:
        raise RuntimeError(result.stderr[-500:])
    logits, reference = read_safetensors(output)["logits"][1], expected["logits"][1]
    return np.abs(logits - reference).max() / np.abs(reference).max()


def main():
    failed = 0
    with tempfile.TemporaryDirectory() as base:
        for name, kind in KINDS.items():
            folder = os.path.join(base, name)
            make_checkpoint(folder, name, kind)
            try:
                error = error_of(sys.argv[1], folder)
                failed += not error < TOLERANCE
                print(f"{name}: {error:.2e}")
            except RuntimeError as problem:
                failed += 1
                print(f"{name}: {problem}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
