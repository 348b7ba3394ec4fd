"""eval --task gsm8k: scores, the dump of what was asked and said, wrong usage, bad files, and an interrupt."""

import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))
from cli import MODEL, SHARED, Checks, bpdq, scratch, start  # noqa: E402

QUESTIONS = SHARED / "data" / "gsm8k-test.jsonl"
EXAMPLES = SHARED / "data" / "gsm8k-train-2000.jsonl"
TASK = ["eval", MODEL, "--task", "gsm8k"]
FILES = ["--task-data", QUESTIONS, "--task-train", EXAMPLES]
KEYS = ["task", "shots", "questions", "cut_prompts", "strict_match", "strict_match_stderr", "flexible_extract", "flexible_extract_stderr",
        "prompt_tokens", "generated_tokens", "prompt_tokens_per_second", "decode_tokens_per_second"]
STOPS = ["Question:", "</s>", "<|im_end|>"]


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path, items):
    path.write_text("".join(json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in items))
    return path


def greedy(prompt):
    """What `run` says to the prompt: the generation in front of the first stop string."""
    text = json.loads(bpdq("run", MODEL, "-f", "-", "--temp", "0", "-n", "256", "--json", stdin=prompt).stdout)["text"]
    for stop in STOPS:
        text = text.split(stop)[0]
    return text


def evaluation(checks, folder):
    dump = folder / "dump"
    scores = checks.json(bpdq(*TASK, *FILES, "--shots", "2", "--limit", "2", "--dump", dump, "--json"), *KEYS)
    checks.that((scores.get("task"), scores.get("shots"), scores.get("questions")) == ("gsm8k", 2, 2), f"2 questions after 2 examples: {scores}")
    rows = rows_of(dump)
    source = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()[:2]]
    checks.that([row["answer"] for row in rows] == [item["answer"] for item in source], "the dump has other answers than the file")
    for row, item in zip(rows, source):
        checks.that(row["prompt"].endswith(f"\n\nQuestion: {item['question']}\nAnswer:") and row["prompt"].count("Question: ") == 3, f"prompt {row['prompt']!r}")
    checks.that(rows[0]["generation"] == greedy(rows[0]["prompt"]), f"not the greedy continuation: {rows[0]['generation']!r}")
    printed = bpdq(*TASK, *FILES, "--shots", "0", "--limit", "1", "-q")
    pattern = rb"strict match +[01]\.0000\nflexible extract +[01]\.0000\nquestions +1, each after 0 examples\ntokens/s .*\n"
    checks.that(printed.returncode == 0 and re.fullmatch(pattern, printed.stdout) and printed.stderr == b"", f"the summary reads {printed}")


def right_answers(checks, folder):
    """Questions whose true answers are made from what the model says, but for the first: two of three are right."""
    asked = [json.loads(line)["question"] for line in QUESTIONS.read_text(encoding="utf-8").splitlines()[:3]]
    number = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
    said = [greedy(f"Question: {question}\nAnswer:") for question in asked]
    last = [next((group for group in number.findall(text)[-1] if group), "") if number.search(text) else "[invalid]" for text in said]
    plain = [re.sub(r"\.$", "", text.replace(",", "").replace("$", "")) for text in last]
    items = [(question, f"So it is\n#### {answer if i else 'another'}") for i, (question, answer) in enumerate(zip(asked, plain))]
    dump = folder / "right"
    scores = checks.json(bpdq(*TASK, "--task-data", write_lines(folder / "asked", items), "--shots", "0", "--dump", dump, "--json"), *KEYS)
    rows = rows_of(dump)
    checks.that([row["flexible_extract"]["extracted"] for row in rows] == last, f"extracted {[row['flexible_extract'] for row in rows]}, not {last}")
    checks.that([row["flexible_extract"]["correct"] for row in rows] == [False, True, True], f"scored {rows}")
    share, error = (scores.get(key, 0) for key in ("flexible_extract", "flexible_extract_stderr"))
    checks.that(abs(share - 2 / 3) < 1e-9 and abs(error - 1 / 3) < 1e-9, f"2 of 3 are {scores}")


def with_stop_token(folder, word, stop, special):
    """A copy of the model that has `stop` in the place of the token `word`, and that token's id."""
    copy = folder / f"stops-{special}"
    shutil.copytree(MODEL, copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    tokenizer = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    model = tokenizer["model"]
    parts = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    model["merges"] = [merge for merge, pair in zip(model["merges"], parts) if word not in (*pair, "".join(pair))]
    added = {token["content"]: token for token in tokenizer["added_tokens"]}
    if stop in added:
        added[stop]["content"] = "<|other|>"
    model["vocab"][stop] = model["vocab"].pop(word)
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": model["vocab"][stop], "content": stop, "special": special})
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return copy, model["vocab"][stop]


def stop_tokens(checks, folder):
    """A stop string that is one token ends the answer, whether or not the text shows it."""
    question = json.loads(QUESTIONS.read_text(encoding="utf-8").splitlines()[0])["question"]
    asked = write_lines(folder / "stopped", [(question, "#### 1")])
    for stop, special in (("</s>", True), ("<|im_end|>", False)):
        model, token = with_stop_token(folder, "\u0120of", stop, special)
        whole = json.loads(bpdq("run", model, "-p", f"Question: {question}\nAnswer:", "--temp", "0", "-n", "256", "--json").stdout)["ids"]
        checks.that(token in whole[1:], f"the model never says {stop}: {whole}")
        before = whole[: whole.index(token)] if token in whole else whole
        text = json.loads(bpdq("tokenize", model, "--ids", ",".join(map(str, before)), "--json").stdout)["text"]
        dump = folder / "stopped.dump"
        words = ["--task", "gsm8k", "--task-data", asked, "--shots", "0", "--dump", dump, "--json"]
        scores = checks.json(bpdq("eval", model, *words), "generated_tokens", "strict_match_stderr")
        checks.that(scores.get("generated_tokens") == len(before) + 1, f"{stop} ends an answer after {scores} tokens, not {len(before) + 1}")
        checks.that(scores.get("strict_match_stderr", 0) is None, f"the standard error of one question: {scores}")
        generation = rows_of(dump)[0]["generation"]
        checks.that(generation == text, f"{stop}: {generation!r}, not {text!r}")


def shared_prefix(checks, folder):
    """With the same examples the cache is reused; the answers are those of a session that starts anew."""
    alone, together = folder / "alone", folder / "together"
    options = ["--shots", "3", "--same-shots"]
    both = checks.json(bpdq(*TASK, *FILES, *options, "--limit", "2", "--dump", together, "--json"), "prompt_tokens")
    items = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()[1:2]]
    second = write_lines(folder / "second", [(item["question"], item["answer"]) for item in items])
    one = checks.json(bpdq(*TASK, "--task-data", second, "--task-train", EXAMPLES, *options, "--dump", alone, "--json"), "prompt_tokens")
    checks.that(both.get("prompt_tokens", 0) < 1.5 * one.get("prompt_tokens", 0), f"{both} evaluates the examples twice; one question: {one}")
    first_examples = [json.loads(line)["question"] for line in EXAMPLES.read_text(encoding="utf-8").splitlines()[:3]]
    again, row = rows_of(together)[1], rows_of(alone)[0]
    checks.that(again["prompt"] == row["prompt"] and again["generation"] == row["generation"], f"{again['generation']!r} is not {row['generation']!r}")
    checks.that(re.findall(r"Question: (.*)", again["prompt"])[:3] == first_examples, "--same-shots takes other examples than the first")


def long_prompts(checks, folder):
    fits = checks.json(bpdq(*TASK, *FILES, "--shots", "1", "--limit", "1", "--ctx", "400", "--json"), "cut_prompts", "prompt_tokens")
    checks.that(fits.get("cut_prompts") == 1 and fits.get("prompt_tokens") == 400 - 256, f"a prompt that leaves no room for the answer: {fits}")
    checks.failure(bpdq(*TASK, *FILES, "--shots", "9"), f"{QUESTIONS}:1:", "--shots")
    checks.failure(bpdq(*TASK, *FILES, "--ctx", "300"), f"{QUESTIONS}:1:", "300", "--ctx")
    checks.failure(bpdq(*TASK, *FILES, "--ctx", "256"), "256", "--ctx")


def bad_files(checks, folder):
    good = b'{"question": "How many?", "answer": "Two.\\n#### 2"}\n'
    lines = {
        "text": (b"How many?\n", ":2:", "JSON"),
        "cut": (good[:-20] + b"\n", ":2:", "JSON"),
        "array": (b'["question", "answer"]\n', ":2:", "object"),
        "no-question": (b'{"answer": "2"}\n', ":2:", '"question"'),
        "no-answer": (b'{"question": "2"}\n', ":2:", '"answer"'),
        "number": (b'{"question": "How many?", "answer": 2}\n', ":2:", "string"),
        "empty-answer": (b'{"question": "How many?", "answer": ""}\n', ":2:", "empty"),
        "latin1": (b'{"question": "caf\xe9?", "answer": "2"}\n', ":2:", "JSON"),
        "nul": (b'{"question": "a\\u0000b", "answer": "2"}\n', ":2:", "JSON"),
        "deep": (b"[" * 100000 + b"\n", ":2:", "JSON"),
    }
    for name, (line, *parts) in lines.items():
        path = folder / name
        path.write_bytes(good + line + good)
        checks.failure(bpdq(*TASK, "--task-data", path, "--shots", "0"), str(path), *parts)
        checks.failure(bpdq(*TASK, "--task-data", QUESTIONS, "--task-train", path), str(path), *parts)
    (folder / "blank").write_bytes(b"\n \r\n\t\n")
    checks.failure(bpdq(*TASK, "--task-data", folder / "blank", "--shots", "0"), "blank", "no questions")
    (folder / "few").write_bytes(b"\r\n" + good * 3)
    checks.failure(bpdq(*TASK, "--task-data", QUESTIONS, "--task-train", folder / "few", "--shots", "4"), "few", "3 examples", "--shots 4")
    checks.failure(bpdq(*TASK, "--task-data", folder / "none", "--shots", "0"), "none", "No such file")
    checks.failure(bpdq(*TASK, *FILES[:3], folder / "none"), "none", "No such file")
    checks.failure(bpdq(*TASK, *FILES, "--limit", "1", "--dump", folder / "no" / "dump"), "No such file")
    checks.failure(bpdq(*TASK, "--task-data", folder / "few", "--shots", "0", "--limit", "1", "--dump", "/dev/full"), "/dev/full")
    checks.failure(bpdq("eval", folder / "missing", "--task", "gsm8k", *FILES), "missing")


def usage(checks):
    checks.wrong_usage(bpdq(*TASK), "--task-data")
    checks.wrong_usage(bpdq(*TASK, "--task-data", QUESTIONS), "--task-train")
    checks.wrong_usage(bpdq("eval", MODEL, "--task", "arc"), "gsm8k")
    checks.wrong_usage(bpdq(*TASK, *FILES, "--text", QUESTIONS), "--text")
    checks.wrong_usage(bpdq(*TASK, *FILES, "--shots", "-1"), "--shots")
    checks.wrong_usage(bpdq("eval", MODEL, "--text", QUESTIONS, "--limit", "2"), "--limit needs --task")


def interrupt(checks, folder):
    dump = folder / "interrupted"
    process = start(*map(str, [*TASK, *FILES, "--limit", "100", "--dump", dump]))
    while process.poll() is None and not list(folder.glob("interrupted*")):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    checks.that(process.returncode == 1 and err == b"bpdq: error: interrupted\n" and out == b"", f"an interrupt ends with {process.returncode}: {err}")
    checks.that(not list(folder.glob("interrupted*")), "an interrupt leaves the dump")


def main():
    checks = Checks()
    with scratch() as name:
        folder = Path(name)
        evaluation(checks, folder)
        right_answers(checks, folder)
        stop_tokens(checks, folder)
        shared_prefix(checks, folder)
        long_prompts(checks, folder)
        bad_files(checks, folder)
        usage(checks)
        interrupt(checks, folder)
    checks.finish()


main()
