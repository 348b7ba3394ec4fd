"""Writes expected.json beside this file: prompts and scores of the task gsm8k as the PyPI package lm-eval makes them, for
tests/parity/gsm8k_parity.py, which runs without that package and what it needs (1 GB). By hand:

    pip install lm-eval==0.4.13 && python make_expected.py ../../../../shared/data

The argument is the folder of gsm8k-test.jsonl and gsm8k-train-2000.jsonl. Everything goes through lm_eval.simple_evaluate with its default
seeds; only the data set is local and the model is one that says what it is told to.
"""

import hashlib
import importlib.metadata
import itertools
import json
import random
import sys
import tempfile
from pathlib import Path

import lm_eval
import yaml
from lm_eval.api.model import LM
from lm_eval.models.utils import postprocess_generated_text

# Shots, lines of the training file, questions. random.sample goes another way up to a number of lines that depends on the shots.
PROMPTS = [(5, 2000, 1319), (0, 2000, 50), (1, 2000, 50), (8, 2000, 50), (5, 21, 50), (5, 22, 50), (8, 85, 50), (8, 86, 50), (40, 40, 20)]
SHOWN = 10  # questions whose examples are listed, so that a difference can be read

ANSWER = "She has 16 - 3 = <<16-3=13>>13 eggs.\nSo 13 * 2 = $<<13*2=26>>26.\n#### "
# What a model may say, and the true answer.
WRITTEN = [
    (" She makes 9 * 2 = $18.\n#### 18\n\nQuestion: And then? #### 7", ANSWER + "18"),
    (" 18", ANSWER + "18"),
    ("", ANSWER + "18"),
    (" I do not know.", ANSWER + "18"),
    ("[invalid]", "[invalid]"),
    ("nothing", "[INVALID]"),
    ("#### 1,234", ANSWER + "1234"),
    ("#### 1234", ANSWER + "1,234"),
    ("#### $1,234.", ANSWER + "1234"),
    ("The answer is $1,234.", ANSWER + "1234"),
    ("#### 18.", ANSWER + "18"),
    ("#### 18..", ANSWER + "18"),
    ("#### 18.0", ANSWER + "18"),
    ("#### 18.50", ANSWER + "18.5"),
    ("#### .5", ANSWER + "0.5"),
    ("#### -5", ANSWER + "-5"),
    ("#### - 5", ANSWER + "-5"),
    ("It is -5 degrees", ANSWER + "-5"),
    ("between 3-5", ANSWER + "5"),
    ("10-5=5", ANSWER + "5"),
    ("####18", ANSWER + "18"),
    ("###### 18", ANSWER + "18"),
    ("#### 3\n#### 4", ANSWER + "3"),
    ("#### 3\n#### 4", ANSWER + "4"),
    ("#### 3 and then 4 and 7", ANSWER + "7"),
    ("#### x 18", ANSWER + "18"),
    ("####  18", ANSWER + "18"),
    ("####\n18", ANSWER + "18"),
    ("#### 18%", ANSWER + "18"),
    ("#### 18 dollars. That is all", ANSWER + "18"),
    ("So 18.\n\nI hope 5 helps...", ANSWER + "18"),
    ("So 18, 19, and 20, ok", ANSWER + "20"),
    ("... , . $ ,, $$", ANSWER + "18"),
    ("5", ANSWER + "5"),
    ("5.", ANSWER + "5"),
    ("$5", ANSWER + "5"),
    ("-$5", ANSWER + "-5"),
    ("-$55", ANSWER + "-55"),
    ("\u22125", ANSWER + "5"),
    ("\u0661\u0668", ANSWER + "18"),
    ("caf\u00e9 18\u20ac", ANSWER + "18"),
    ("1\u202f000", ANSWER + "1000"),
    ("#### 18</s>#### 19", ANSWER + "18"),
    ("</s>18", ANSWER + "18"),
    ("It is 18<|im_end|> 19", ANSWER + "18"),
    ("It is 18<|im_end 19", ANSWER + "19"),
    ("18 Question 19", ANSWER + "19"),
    ("18 question: 19", ANSWER + "19"),
    ("18Question:", ANSWER + "18"),
    ("<|im_end|>Question:</s>", ANSWER + "18"),
    ("18", "18"),
    ("18", "#### 18\n"),
    ("18", "#### 18.\n"),
    ("18", "#### 18 "),
    ("18", "a #### 17\n#### 18"),
    ("18", "$18"),
    ("..", "#### "),
    ("#### ..", "#### ."),
    ("1" * 400, ANSWER + "1" * 400),
]
PIECES = ["#### ", "####", "-", "$", ".", ",", "\n", " ", "18", "7", "1,000", "0", "-3.5", "Question:", "</s>", "<|im_end|>", "Question", "x", "So ", "\u00e9",
          "\u0663", "%", "\r\n", "\t", "answer is ", "\u2028"]


def spoken():
    generator = random.Random(8)
    for _ in range(300):
        text = "".join(generator.choice(PIECES) for _ in range(generator.randint(1, 14)))
        yield text, ANSWER + generator.choice(["18", "7", "1000", "1,000", "0", "-3.5", "3", "."])


class Speaker(LM):
    """Gives the n-th question the n-th answer, cut at the stop strings as the package's models do it; remembers the prompts."""

    def __init__(self, answers):
        super().__init__()
        self.answers, self.prompts, self.cut = answers, [], []

    def generate_until(self, requests, disable_tqdm=False):
        self.prompts = [request.args[0] for request in requests]
        stops = [request.args[1]["until"] for request in requests]
        self.cut = [postprocess_generated_text(text, stop, None) for text, stop in zip(self.answers, stops)]
        return self.cut

    def loglikelihood(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError


def evaluate(train, test, shots, answers, limit=None):
    config = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml").read_text())
    del config["tag"]
    config.update(dataset_path="json", dataset_name=None, dataset_kwargs={"data_files": {"train": str(train), "test": str(test)}})
    model = Speaker(answers)
    return model, lm_eval.simple_evaluate(model=model, tasks=[config], num_fewshot=shots, limit=limit)


def prompts_of(shots, lines, questions, data, folder):
    train = folder / f"train-{lines}-{shots}.jsonl"
    examples = list(itertools.islice((data / "gsm8k-train-2000.jsonl").read_text(encoding="utf-8").splitlines(True), lines))
    train.write_text("".join(examples), encoding="utf-8")
    model, _ = evaluate(train, data / "gsm8k-test.jsonl", shots, [""] * questions, questions)
    texts = {"Question: {question}\nAnswer: {answer}\n\n".format(**json.loads(line)): index for index, line in enumerate(examples)}
    chosen = []
    for prompt in model.prompts[:SHOWN]:
        chosen.append([])
        while (found := next((text for text in texts if prompt.startswith(text)), None)) is not None:
            chosen[-1].append(texts[found])
            prompt = prompt[len(found):]
    digest = hashlib.sha256("\x1e".join(model.prompts).encode()).hexdigest()
    return {"shots": shots, "examples": lines, "questions": len(model.prompts), "sha256": digest, "chosen": chosen}


def scores_of(data, folder):
    cases = WRITTEN + list(spoken())
    test = folder / "cases.jsonl"
    test.write_text("".join(json.dumps({"question": f"Number {i}?", "answer": answer}) + "\n" for i, (_, answer) in enumerate(cases)))
    model, outcome = evaluate(data / "gsm8k-train-2000.jsonl", test, 0, [text for text, _ in cases])
    rows = [{"generation": text, "answer": answer, "cut": cut} for (text, answer), cut in zip(cases, model.cut)]
    for sample in outcome["samples"]["gsm8k"]:
        name = sample["filter"].replace("-", "_")
        rows[sample["doc_id"]][name] = {"extracted": sample["filtered_resps"][0], "correct": bool(sample["exact_match"])}
    totals = {key.replace("-", "_"): value for key, value in outcome["results"]["gsm8k"].items() if key.startswith("exact_match")}
    return rows, totals


def main():
    data = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = [prompts_of(*case, data, folder) for case in PROMPTS]
        scores, totals = scores_of(data, folder)
    version = importlib.metadata.version("lm_eval")
    lists = [f'"{name}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in (("prompts", prompts), ("scores", scores))]
    text = f'{{"lm_eval": "{version}", "totals": {json.dumps(totals)},\n' + ",\n".join(lists) + "}\n"
    Path(__file__).with_name("expected.json").write_text(text)


main()
