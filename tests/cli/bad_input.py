"""Every bad input that the command line can meet ends with exit code 1 and one line that says what and where; nothing is left behind."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))
from cli import BPDQ, CHECKPOINTS, MODEL, SHARED, Checks, bpdq, environment, scratch  # noqa: E402

CHECKPOINT = next(path for path in CHECKPOINTS if path.name == "ckpt-qwen2-k2-g64")


def damaged(folder, name, change):
    """A copy of the checkpoint with one change."""
    copy = folder / name
    shutil.copytree(CHECKPOINT, copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    change(copy)
    return copy


def edit_config(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        config.update(changes)
        (folder / "config.json").write_text(json.dumps(config))

    return change


def cut(bytes_left):
    def change(folder):
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[:bytes_left])

    return change


def huge_header(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + data[8:])


def not_finite(folder):
    """The first element of the last norm is not a number."""
    data = bytearray((folder / "model.safetensors").read_bytes())
    size = struct.unpack("<Q", data[:8])[0]
    norm = json.loads(data[8 : 8 + size])["model.norm.weight"]
    begin, end = (8 + size + offset for offset in norm["data_offsets"])
    width = (end - begin) // norm["shape"][0]
    data[begin : begin + width] = b"\xff" * (width - 1) + b"\x7f"
    (folder / "model.safetensors").write_bytes(data)


def models(checks, folder):
    cases = {
        "no-weights": (lambda f: (f / "model.safetensors").unlink(), "no-weights"),
        "no-config": (lambda f: (f / "config.json").unlink(), "config.json"),
        "no-tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
        "empty-weights": (cut(0), "model.safetensors"),
        "truncated": (cut(5000), "model.safetensors"),
        "last-byte": (cut(-1), "model.safetensors"),
        "huge-header": (huge_header, "model.safetensors"),
        "config-text": (lambda f: (f / "config.json").write_text("{"), "config.json"),
        "config-deep": (lambda f: (f / "config.json").write_text("[" * 100000), "config.json"),
        "zero-heads": (edit_config(num_attention_heads=0), "num_attention_heads"),
        "huge-vocab": (edit_config(vocab_size=1 << 40), "vocab_size"),
        "wrong-hidden": (edit_config(hidden_size=512), ""),
        "other-architecture": (edit_config(model_type="mamba", architectures=["MambaForCausalLM"]), "mamba"),
        "tokenizer-text": (lambda f: (f / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}'), "tokenizer.json"),
    }
    for name, (change, part) in cases.items():
        model = damaged(folder, name, change)
        checks.failure(bpdq("run", model, "-p", "x", "-n", "1"), part)
        shutil.rmtree(model)
    for command in (["run", "-p", "x"], ["chat"], ["info"], ["tokenize", "-p", "x"], ["eval", "--text", __file__], ["bench"]):
        checks.failure(bpdq(command[0], folder / "missing", *command[1:]), "missing", "a folder with config.json")
    checks.failure(bpdq("info", CHECKPOINT / "config.json"), "Not a directory", "a folder with config.json")


def requests(checks, folder):
    ids = ",".join(["1"] * 600)
    output = folder / "out.safetensors"
    checks.failure(bpdq("logits", CHECKPOINT, "--ids", "1,2,99999999", "-o", output), "99999999")
    checks.failure(bpdq("logits", CHECKPOINT, "--ids=-1", "-o", output), "-1")
    checks.failure(bpdq("tokenize", CHECKPOINT, "--ids", "1,99999999"), "99999999")
    checks.failure(bpdq("logits", CHECKPOINT, "--ids", ids, "--ctx", "100", "-o", output), "600", "--ctx")
    most = json.loads(bpdq("info", CHECKPOINT, "--json").stdout)["context_length"]
    checks.failure(bpdq("logits", CHECKPOINT, "--ids", ",".join(["1"] * (most + 1)), "-o", output), "give fewer: the model was made for no more")
    checks.failure(bpdq("run", CHECKPOINT, "-p", "word " * 500, "--ctx", "16"), "shorten the text", f"at most {most} (--ctx)")
    for words in (["run", CHECKPOINT, "-f", "-"], ["chat", CHECKPOINT, "-q"]):
        result = bpdq(*words, "--ctx", most, stdin="word " * most)
        checks.failure(result, "shorten the text", f"holds {most}, all that the model was made for")
        checks.that(b"--ctx" not in result.stderr, f"{words[0]}: names --ctx at the model's own maximum")
    checks.failure(bpdq("run", CHECKPOINT, "-p", "x", "--ctx", "1000000"), "--ctx")
    checks.failure(bpdq("run", CHECKPOINT, "-f", folder / "no-such-file"), "no-such-file")
    checks.failure(bpdq("eval", CHECKPOINT, "--text", folder / "no-such-file"), "no-such-file")
    (folder / "short.txt").write_text("")
    checks.failure(bpdq("eval", CHECKPOINT, "--text", folder / "short.txt"), "short.txt")
    checks.failure(bpdq("eval", CHECKPOINT, "--text", __file__, "--against", MODEL), "vocabulary")
    dense = damaged(folder, "not-finite", not_finite)
    (folder / "some.txt").write_text("some words " * 10)
    checks.failure(bpdq("eval", CHECKPOINT, "--text", folder / "some.txt", "--against", dense, "--json"), "--against", "not finite")
    shutil.rmtree(dense)
    checks.failure(bpdq("bench", "--shape", "qwen9"), "qwen9")
    for words in (["--depth", most], ["-p", most + 1], ["-n", most + 1]):  # --ctx, which was not given, is not what is wrong
        result = bpdq("bench", CHECKPOINT, *words)
        checks.failure(result, f"made for {most}", "lower --depth, -p or -n")
        checks.that(b"--ctx" not in result.stderr, f"bench {words}: {result.stderr}")
    checks.failure(bpdq("bench", CHECKPOINT, "--ctx", most + 1), "change --ctx")
    (folder / "nothing").write_text("")
    for words in (["-p", ""], ["-f", folder / "nothing"], ["--ids", ""]):
        checks.failure(bpdq("run", CHECKPOINT, *words), "the prompt is empty")
    checks.failure(bpdq("run", CHECKPOINT, "-p", "x", "--memory-cap", "1KiB"))
    (folder / "template").write_text("{% include 'x' %}")
    checks.failure(bpdq("chat", CHECKPOINT, "--chat-template", folder / "template"), "include")
    checks.failure(bpdq("chat", CHECKPOINT, "--chat-template", folder / "none"), "none")
    (folder / "refuses").write_text("{{ raise_exception('not today') }}")
    checks.failure(bpdq("chat", CHECKPOINT, "--chat-template", folder / "refuses"), "not today")
    checks.that(not output.exists() and not list(folder.glob("*partial*")), "a failed command leaves an output behind")


def devices(checks):
    checks.failure(bpdq("run", CHECKPOINT, "-p", "x", env={"BPDQ_BACKEND": "abacus"}), "abacus")
    checks.failure(bpdq("run", CHECKPOINT, "-p", "x", "--backend", "cpu", "--device", "77"), "77")
    checks.failure(bpdq("run", CHECKPOINT, "-p", "x", env={"BPDQ_DEVICE": "first"}), "BPDQ_DEVICE")
    for words, env in ((["--device", "1023"], {}), ([], {"BPDQ_DEVICE": "1023"})):  # not quietly the CPU
        checks.failure(bpdq("run", CHECKPOINT, "-p", "x", *words, env={"BPDQ_BACKEND": "", **env}), "device 1023")
    listed = {device["backend"] for device in json.loads(bpdq("devices", "--json").stdout)["devices"]}
    for backend in {"vulkan", "cuda"} - listed:
        checks.failure(bpdq("run", CHECKPOINT, "-p", "x", "--backend", backend), backend)


def outputs(checks, folder):
    checks.failure(bpdq("logits", CHECKPOINT, "--ids", "1,2", "-o", "/dev/full"), "/dev/full", "space")
    checks.failure(bpdq("logits", CHECKPOINT, "--ids", "1,2", "-o", folder / "no" / "such" / "file"), "No such")
    checks.failure(bpdq("logits", CHECKPOINT, "--ids", "1,2", "-o", folder), str(folder))
    (folder / "plain").write_text("x")
    checks.failure(bpdq("logits", CHECKPOINT, "--ids", "1,2", "-o", folder / "plain" / "x"), "plain")
    for words in (["tokenize", CHECKPOINT, "-p", "x"], ["info", CHECKPOINT, "--json"], ["devices", "--json"]):
        with open("/dev/full", "wb") as full:
            result = subprocess.run([BPDQ, *words], stdout=full, stderr=subprocess.PIPE, env=environment())
        lines = result.stderr.decode().splitlines()
        checks.that(result.returncode == 1 and "standard output" in lines[-1], f"{words[0]} > /dev/full: {result.returncode} {lines}")


def closed_streams(checks):
    """A stream that is closed at the start is an error where it is used; nothing else that is opened takes its place."""
    cases = (("tokenize", "-p x <&- >&-", "standard output: Bad file"), ("tokenize", "-p x >&-", "standard output: Bad file"),
             ("run", "-f - -q <&-", "standard input: Bad file"),
             ("chat", "-q <&-", "standard input: Bad file"), ("chat", "-q </", "standard input: Is a directory"))  # fmt: skip
    for command, rest, part in cases:
        words = ["sh", "-c", f"'{BPDQ}' {command} '{CHECKPOINT}' {rest}"]
        checks.failure(subprocess.run(words, capture_output=True, env=environment()), part)


# Calibration files that are refused, with what the message says.
CALIBRATIONS = {
    "empty.txt": (b"", "empty.txt"),
    "blank.jsonl": (b"\n \n\n", "too few"),
    "binary.txt": (bytes(range(255, -1, -1)) * 40, "UTF-8"),
    "iso-8859-1.txt": ("caf\u00e9 ".encode("latin-1") * 100, "UTF-8"),
    "utf-16.txt": (("some words " * 100).encode("utf-16"), "UTF-8"),
    "cut.txt": (b"some words " * 100 + "\u20ac".encode()[:2], "UTF-8"),
    "zero.txt": (b"some words \0" * 100, "UTF-8"),
    "broken.jsonl": (b'{"text": "a"}\n{"text": "b"}\n{"text": \n', "line 3"),
    "field.jsonl": (b'{"text": "a"}\n\n{"body": "b"}\n', "line 3 has no string 'text'"),
    "number.jsonl": (b'{"text": 3}\n', "line 1 has no string 'text'"),
    "array.jsonl": (b'["text"]\n', "line 1"),
    "encoding.jsonl": (b'{"text": "\xff"}\n', "line 1"),
    "deep.jsonl": (b"[" * 100000, "line 1"),
    "words.ids": (b"1 2 three", "byte 4"),
    "range.ids": (b"1 2 4000000000", "vocabulary"),
}


def calibrations(checks, folder):
    for name, (data, part) in CALIBRATIONS.items():
        (folder / name).write_bytes(data)
        checks.failure(bpdq("quantize", MODEL, folder / "q", "--calib", folder / name, "-q"), name, part)
    text = SHARED / "data" / "classics-calibration.txt"
    checks.failure(bpdq("quantize", MODEL, folder / "q", "--calib", text, "--calib-format", "ids", "-q"), "token id")
    checks.failure(bpdq("quantize", MODEL, folder / "q", "--calib", text, "--calib-format", "jsonl", "-q"), "line 1")
    checks.failure(bpdq("quantize", MODEL, folder / "q", "--calib", folder, "-q"), "folder")
    (folder / "documents.jsonl").write_text('{"body": "some words"}\n' * 100)
    checks.failure(bpdq("quantize", MODEL, folder / "q", "--calib", folder / "documents.jsonl", "-q"), "'text'")
    (folder / "short.txt").write_text("some words")
    checks.failure(bpdq("quantize", MODEL, folder / "q", "--calib", folder / "short.txt", "-q"), "short.txt", "too few")
    leftovers = [path.name for path in folder.iterdir() if path.name.startswith("q")]
    checks.that(not leftovers, f"a refused calibration leaves {leftovers}")


def quantizing(checks, folder):
    if b"quantize" not in bpdq("--help").stdout:
        return
    text = SHARED / "data" / "classics-calibration.txt"
    layer = SHARED / "vectors" / "k2_g64.safetensors"
    (folder / "exists").mkdir()
    (folder / "exists" / "precious").write_text("x")
    calibrations(checks, folder)
    checks.failure(bpdq("quantize", folder / "missing", folder / "q", "--method", "rtn", "-q"), "missing")
    checks.failure(bpdq("quantize", MODEL, folder / "q", "--calib", folder / "no-text", "-q"), "no-text")
    checks.failure(bpdq("quantize", MODEL, folder / "exists", "--calib", text, "-q"), "exists")
    checks.failure(bpdq("quantize", MODEL, folder / "plain" / "q", "--method", "rtn", "-q"), "plain")
    checks.failure(bpdq("quantize", CHECKPOINT, folder / "q", "--calib", text, "-q"), "quantized already")
    small = ["--calib", text, "--samples", "8", "--seqlen", "64", "-q"]
    checks.failure(bpdq("quantize", MODEL, folder / "q", "--bits", "1", *small), "1.250 that one plane takes", "(--bits)")
    checks.failure(bpdq("quantize", MODEL, folder / "q", "--bits", "1.25", "--group", "160", *small), "1.454", "(--bits) or", "--group 128")
    checks.failure(bpdq("quantize", MODEL, folder / "q", "--calib", text, "--devices", "1023", "-q"), "algebra")
    checks.failure(bpdq("quantize", MODEL, folder / "q", "--calib", text, "--backend", "cpu", "--device", "7", "-q"), "device 7")
    checks.failure(bpdq("quantize-layer", folder / "missing", folder / "l"), "missing")
    checks.failure(bpdq("quantize-layer", layer, folder / "plain" / "l", "--method", "rtn"), "plain")
    checks.failure(bpdq("quantize-layer", MODEL / "model.safetensors", folder / "l", "--method", "rtn"), "W")
    checks.that((folder / "exists" / "precious").read_text() == "x", "an existing folder was touched")
    checks.failure(bpdq("quantize-layer", layer, folder / "l", "--devices", "1023"), "algebra")
    leftovers = [path.name for path in folder.iterdir() if path.name.startswith(("q", "l"))]
    checks.that(not leftovers, f"a failed quantize leaves {leftovers}")


def main():
    checks = Checks()
    with scratch() as name:
        folder = Path(name)
        models(checks, folder)
        requests(checks, folder)
        devices(checks)
        outputs(checks, folder)
        closed_streams(checks)
        quantizing(checks, folder)
    checks.finish()


main()
