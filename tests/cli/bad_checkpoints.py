"""Every broken or unsupported checkpoint ends the program with exit code 1 and one line that says what and where."""

import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference"))
from hostile import HOSTILE, make_hostile  # noqa: E402


def complaint(program, folder):
    """What is wrong with the program's answer to this folder, or None."""
    command = [program, "logits", folder, "--ids", "1,2,3", "-o", folder + ".safetensors", "--backend", "cpu"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    errors = [line for line in result.stderr.splitlines() if line.startswith("bpdq: error: ")]
    if result.returncode != 1:
        return f"exit code {result.returncode}: {result.stderr[-500:]}"
    if len(errors) != 1:
        return f"{len(errors)} error lines: {result.stderr[-500:]}"
    if os.path.exists(folder + ".safetensors"):
        return "it left an output file"
    with open(os.path.join(folder, "expected-error.json")) as file:
        missing = [word for word in json.load(file) if word not in errors[0]]
    return f"'{missing[0]}' is not in: {errors[0]}" if missing else None


def main():
    failed = 0
    with tempfile.TemporaryDirectory() as base:
        for name in HOSTILE:
            folder = os.path.join(base, name)
            make_hostile(folder, name)
            problem = complaint(sys.argv[1], folder)
            failed += problem is not None
            print(f"{name}: {problem or 'ok'}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
