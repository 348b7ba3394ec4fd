"""Compares the task gsm8k of `bpdq eval` with lm-evaluation-harness: every prompt of the test file with the examples chosen for it, and how
fixed generations are cut, read and scored. What the package lm-eval makes of them is in tests/data/gsm8k/expected.json (its
make_expected.py says how). Called with the path of the bpdq binary; the tool gsm8k_batch lies beside it.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TOOL = Path(sys.argv[1]).parent / "gsm8k_batch"
DATA = Path(os.environ["BPDQ_SHARED"]) / "data"
EXPECTED = json.loads((Path(os.environ["BPDQ_TEST_DATA"]) / "gsm8k" / "expected.json").read_text(encoding="utf-8"))


def tool(*words, stdin=""):
    output = subprocess.run([TOOL, *map(str, words)], input=stdin.encode(), stdout=subprocess.PIPE, check=True, timeout=120).stdout
    return [json.loads(line) for line in output.decode().split("\n") if line]


def check_prompts(case, folder):
    """The differences of one way to choose examples, as texts."""
    train = folder / "train.jsonl"
    with open(DATA / "gsm8k-train-2000.jsonl", encoding="utf-8") as lines:
        train.write_text("".join(itertools.islice(lines, case["examples"])), encoding="utf-8")
    name = f"{case['shots']} shots of {case['examples']} examples"
    answers = tool("prompts", train, DATA / "gsm8k-test.jsonl", case["shots"])[: case["questions"]]
    chosen = [answer["chosen"] for answer in answers[: len(case["chosen"])]]
    differences = [f"{name}: question {i} has the examples {ours}, not {theirs}" for i, (ours, theirs) in enumerate(zip(chosen, case["chosen"])) if ours != theirs]
    digest = hashlib.sha256("\x1e".join(answer["prompt"] for answer in answers).encode()).hexdigest()
    if len(answers) != case["questions"] or digest != case["sha256"]:
        differences.append(f"{name}: the text of {len(answers)} prompts differs; the first is {answers[0]['prompt']!r}")
    return differences


def check_scores(cases, totals):
    requests = "".join(json.dumps({key: case[key] for key in ("generation", "answer")}) + "\n" for case in cases)
    *answers, sums = tool("score", stdin=requests)
    differences = []
    for case, answer in zip(cases, answers):
        wanted = {key: case[key] for key in ("cut", "strict_match", "flexible_extract")}
        if answer != wanted:
            differences.append(f"{case['generation']!r} for {case['answer']!r}:\n  lm-eval {wanted}\n  bpdq    {answer}")
    for name, (share, error) in sums.items():
        wanted = [totals[f"{key},{name}"] for key in ("exact_match", "exact_match_stderr")]
        if max(abs(share - wanted[0]), abs(error - wanted[1])) > 1e-12:
            differences.append(f"{name}: {share} +- {error}, not {wanted}")
    if len(answers) != len(cases) or len(sums) != 2:
        differences.append(f"{len(answers)} scores and {len(sums)} sums of {len(cases)} generations")
    return differences


def main():
    differences = check_scores(EXPECTED["scores"], EXPECTED["totals"])
    with tempfile.TemporaryDirectory(prefix="bpdq-gsm8k-") as name:
        for case in EXPECTED["prompts"]:
            differences += check_prompts(case, Path(name))
    for difference in differences[:20]:
        print(difference)
    prompts = sum(case["questions"] for case in EXPECTED["prompts"])
    print(f"{prompts} prompts and {len(EXPECTED['scores'])} generations compared with lm-eval {EXPECTED['lm_eval']}, {len(differences)} differences")
    return 1 if differences or not prompts or not EXPECTED["scores"] else 0


if __name__ == "__main__":
    sys.exit(main())
