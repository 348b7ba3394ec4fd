"""What the commands compute, against the expected values of the checkpoints and against each other."""

import array
import csv
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))
from cli import BPDQ, CHECKPOINTS, MODEL, SHARED, Checks, bpdq, environment, scratch  # noqa: E402


def read_safetensors(path):
    """Name to (shape, values)."""
    data = Path(path).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = array.array({"F32": "f", "I32": "i"}[entry["dtype"]])
        values.frombytes(data[8 + length + begin : 8 + length + end])
        tensors[name] = (entry["shape"], values)
    return tensors


def log_softmax(row):
    top = max(row)
    lse = top + math.log(sum(math.exp(x - top) for x in row))
    return [x - lse for x in row]


def checkpoint(checks, path, folder):
    facts = json.loads((path / "expected.json").read_text())
    expected = read_safetensors(path / "expected.safetensors")
    encoded = checks.json(bpdq("tokenize", path, "-p", facts["text"], "--json"), "ids", "text")
    checks.that(encoded.get("ids") == facts["ids"], f"{path.name}: other token ids")
    plain = bpdq("tokenize", path, "-f", "-", stdin=facts["text"])
    checks.that(plain.stdout.decode().strip() == ",".join(map(str, facts["ids"])), f"{path.name}: tokenize without --json: {plain.stdout[:80]}")
    decoded = checks.json(bpdq("tokenize", path, "--ids", ",".join(map(str, facts["ids"])), "--json"), "ids", "text")
    checks.that(decoded.get("text", "").strip() == facts["text"].strip(), f"{path.name}: other text: {decoded.get('text')!r}")

    ids = list(expected["ids"][1])
    words = ",".join(map(str, ids))
    output = folder / f"{path.name}.safetensors"
    result = bpdq("logits", path, "--ids", words, "-o", output, "--activations", "f32")
    checks.that(result.returncode == 0 and output.exists(), f"{path.name}: logits: {result.stderr}")
    shape, logits = read_safetensors(output)["logits"]
    wanted_shape, wanted = expected["logits"]
    checks.that(shape == wanted_shape, f"{path.name}: logits of shape {shape}")
    worst = max(abs(a - b) for a, b in zip(logits, wanted)) / max(map(abs, wanted))
    checks.that(worst < 2e-3, f"{path.name}: logits differ by {worst:.2e} of the largest")
    greedy = list(expected["greedy"][1])
    greedy = greedy[len(ids) :] if greedy[: len(ids)] == ids else greedy
    run = checks.json(bpdq("run", path, "--ids", words, "-n", len(greedy), "--temp", "0", "--activations", "f32", "--json"), "text", "ids", "prompt_tokens")
    checks.that(run.get("ids") == greedy, f"{path.name}: greedy continuation {run.get('ids')} is not {greedy}")


def evaluation(checks, path, folder):
    """eval over two windows and a rest that is not scored, against the logits command; and of the model against itself."""
    text = "The wind was blowing over the hills, and nobody had seen the ship since Monday. "
    ids = json.loads(bpdq("tokenize", path, "-p", text, "--json").stdout)["ids"]
    (folder / "text").write_text(text)
    window = (len(ids) - 5) // 2
    nll, scored = 0.0, 0
    for first in range(0, 2 * window, window):
        part = ids[first : first + window]
        bpdq("logits", path, "--ids", ",".join(map(str, part)), "-o", folder / "window")
        (_, vocab), values = read_safetensors(folder / "window")["logits"]
        for i in range(1, len(part)):
            nll -= log_softmax(values[(i - 1) * vocab : i * vocab])[part[i]]
            scored += 1
    scores = checks.json(bpdq("eval", path, "--text", folder / "text", "--ctx", window, "--against", path, "--json"), "ppl", "kl", "top1", "tokens")
    checks.that(scores.get("tokens") == scored, f"{path.name}: {scores.get('tokens')} tokens scored, not {scored}")
    checks.that(abs(scores.get("ppl", 0) / math.exp(nll / scored) - 1) < 1e-3, f"{path.name}: perplexity {scores.get('ppl')}, not {math.exp(nll / scored)}")
    checks.that(abs(scores.get("kl", 1)) < 1e-6 and scores.get("top1") == 1, f"{path.name}: a model differs from itself: {scores}")
    alone = checks.json(bpdq("eval", path, "--text", folder / "text", "--ctx", window, "--json"), "ppl", "tokens")
    checks.that("kl" not in alone and alone.get("ppl") == scores.get("ppl"), f"{path.name}: {alone} without --against")
    every = checks.json(bpdq("eval", path, "--text", folder / "text", "--ctx", window, "--every", "2", "--json"), "tokens")
    checks.that(every.get("tokens") == window - 1, f"--every 2 scores {every.get('tokens')} tokens")
    short = checks.json(bpdq("eval", path, "--text", folder / "text", "--ctx", len(ids) + 7, "--json"), "tokens")
    checks.that(short.get("tokens") == len(ids) - 1, f"a text shorter than the window: {short.get('tokens')} tokens")
    printed = bpdq("eval", path, "--text", folder / "text", "--ctx", window).stdout.decode()
    checks.that(re.search(r"perplexity +[0-9.]+\ntokens +\d+\n", printed), f"eval prints {printed!r}")


def divergence(checks, dense, folder):
    """KL and agreement of two models, from their logits. A quantized copy of the model is the other one."""
    quantized = folder / "rtn"
    if bpdq("quantize", dense, quantized, "--planes", "3", "--group", "64", "--method", "rtn", "-q").returncode != 0:
        return checks.that(b"quantize" not in bpdq("--help").stdout, "quantize --method rtn failed")
    text = "It was a dark and stormy night, and the wind"
    ids = json.loads(bpdq("tokenize", dense, "-p", text, "--json").stdout)["ids"]
    (folder / "text").write_text(text)
    rows = []
    for model, activations in ((dense, ["--activations", "f32"]), (quantized, [])):  # as eval takes them
        bpdq("logits", model, *activations, "--ids", ",".join(map(str, ids)), "-o", folder / "logits")
        (_, vocab), values = read_safetensors(folder / "logits")["logits"]
        rows.append([log_softmax(values[i * vocab : (i + 1) * vocab]) for i in range(len(ids) - 1)])
    kl = sum(math.exp(p) * (p - q) for a, b in zip(*rows) for p, q in zip(a, b)) / len(rows[0])
    agreed = sum(a.index(max(a)) == b.index(max(b)) for a, b in zip(*rows)) / len(rows[0])
    scores = checks.json(bpdq("eval", quantized, "--text", folder / "text", "--against", dense, "--json"), "kl", "top1")
    checks.that(abs(scores.get("kl", 0) - kl) < 2e-3 * kl + 1e-6, f"KL {scores.get('kl')}, not {kl}")
    checks.that(abs(scores.get("top1", -1) - agreed) < 1e-9, f"agreement {scores.get('top1')}, not {agreed}")
    facts = checks.json(bpdq("info", quantized, "--json"), "architecture", "layers", "bits_per_weight", "weight_bytes", "parameters", "memory_needed", "linears")
    checks.that(facts.get("bits_per_weight") == 4.0, f"3 planes at g=64 with bf16 coefficients have 4 bits per weight, not {facts.get('bits_per_weight')}")
    exact = sum(8 * linear["bytes"] for linear in facts.get("linears", []) if linear["planes"]) / facts.get("quantized_weights", 1)
    checks.that(exact == facts.get("bits_per_weight"), f"the linears have {exact} bits per weight")
    checks.that({linear["planes"] for linear in facts.get("linears", [])} == {0, 3}, "planes per linear")


def generation(checks, path):
    sampled = ["run", path, "-p", "Once", "-n", "24", "--temp", "1", "--top-k", "0", "--top-p", "1"]
    first, second, other = (bpdq(*sampled, "--seed", seed) for seed in (5, 5, 6))
    checks.that(first.returncode == 0 and first.stdout == second.stdout, "the same seed gives another text")
    checks.that(first.stdout != other.stdout, "another seed gives the same text")
    speed = first.stderr.decode().splitlines()
    checks.that(len(speed) == 3 and "cpu" in speed[0] and re.search(r"loaded .* GB in .* GB/s", speed[1]), f"stderr: {speed}")
    checks.that(re.search(r"prompt: \d+ tokens, .* tokens/s; generated: 24 tokens, .* tokens/s", speed[-1]), f"speed: {speed}")
    quiet = bpdq(*sampled, "--seed", "5", "--quiet")
    checks.that(quiet.stderr == b"" and quiet.stdout == first.stdout, f"--quiet: {quiet.stderr}")
    lines = "Hello\n\nAnd then?\n/reset\nHello\n"
    talk = checks.json(bpdq("chat", MODEL, "--temp", "0", "-n", "8", "--json", "-q", stdin=lines), "messages", "forgotten_messages")
    roles = [message["role"] for message in talk.get("messages", [])]
    checks.that(roles == ["user", "assistant"], f"/reset keeps {roles}")
    checks.that(talk.get("forgotten_messages") == 0, f"a short chat forgets {talk.get('forgotten_messages')} messages")
    crowded = ["chat", MODEL, "--temp", "0", "-n", "8", "--ctx", "64", "--json", "-q"]
    talk = checks.json(bpdq(*crowded, stdin="Hello\n" * 6), "messages", "forgotten_messages")
    left, forgotten = len(talk.get("messages", [])), talk.get("forgotten_messages", 0)
    checks.that(0 < left < 12 and left + forgotten == 12, f"a chat in a small context: {left} messages left, {forgotten} forgotten")
    talk = checks.json(bpdq(*crowded, stdin="Hello\n" * 6 + "/reset\nHello\n"), "messages", "forgotten_messages")
    checks.that(talk.get("forgotten_messages") == 0, f"/reset keeps {talk.get('forgotten_messages')} forgotten messages")
    # The second answer comes from a KV cache that is partly reused; a fresh one must give the same.
    talk = checks.json(bpdq("chat", MODEL, "--temp", "0", "-n", "8", "--json", "-q", stdin="Hello\nAnd then?\n"), "messages")["messages"]
    frames = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in talk[:3]) + "<|im_start|>assistant\n"
    ids = bpdq("tokenize", MODEL, "--plain", "-p", frames).stdout.decode().strip()
    fresh = checks.json(bpdq("run", MODEL, "--ids", ids, "--temp", "0", "-n", "8", "--json", "-q"), "text")
    checks.that(fresh.get("text") == talk[3]["content"], f"chat answers {talk[3]['content']!r}, a fresh session {fresh.get('text')!r}")
    plain = bpdq("chat", MODEL, "--temp", "0", "-n", "8", "-q", "--system", "Be brief.", stdin="Hello\nAnd then?\n")
    checks.that(plain.returncode == 0 and plain.stderr == b"" and plain.stdout.count(b"\n") >= 2, f"chat: {plain}")


def room(checks, path, folder):
    """-n 0 leaves room behind a prompt that is longer than the usual context, as far as the model goes."""
    copy = folder / "long-context"
    shutil.copytree(path, copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4300}))
    run = checks.json(bpdq("run", copy, "--ids", ",".join(["7"] * 4200), "-n", "0", "--temp", "0", "--json"), "generated_tokens", "end_of_text")
    checks.that(run.get("generated_tokens") == 101 and not run.get("end_of_text"), f"-n 0 behind a long prompt: {run.get('generated_tokens')} tokens")


def reports(checks, path):
    devices = checks.json(bpdq("devices", "--json"), "devices")
    cpu = [device for device in devices.get("devices", []) if device["backend"] == "cpu"]
    checks.that(len(cpu) == 1 and {"index", "name", "memory_total", "memory_free", "kind"} <= set(cpu[0]), f"devices: {devices}")
    checks.that(b"cpu 0: " in bpdq("devices").stdout, "devices does not list the CPU")
    keys = ["prefill_tokens_per_second", "decode_tokens_per_second", "bytes_per_token", "bandwidth_share", "bandwidth_bytes_per_second", "peak_device_bytes"]
    bench = ["bench", path, "-p", "16", "-n", "4", "--depth", "8", "-r", "1"]
    figures = checks.json(bpdq(*bench, "-o", "json"), "model", "device", "rows", *keys)
    checks.that(all(figures.get(key, 0) > 0 for key in keys), f"bench: {figures}")
    checks.that([row["test"] for row in figures.get("rows", [])] == ["prefill 16", "decode 4"], f"bench rows: {figures.get('rows')}")
    load_keys = ("load_bytes", "load_seconds", "load_bytes_per_second", "load_weights_seconds", "load_weights_bytes_per_second")
    checks.that(all(figures.get(key, 0) > 0 for key in load_keys), f"bench: {figures}")
    checks.that(json.loads(bpdq(*bench, "--json").stdout).keys() == figures.keys(), "bench --json differs from -o json")
    table = bpdq(*bench).stdout.decode()
    checks.that("| decode 4 |" in table and "|---|---:|" in table, f"bench table: {table}")
    lines = bpdq(*bench, "-o", "csv").stdout.decode().splitlines()
    rows = list(csv.DictReader(lines))
    checks.that(lines[0].startswith("test,tokens_per_second") and [row["test"] for row in rows] == ["prefill 16", "decode 4"], f"bench csv: {lines}")
    by_name = {"prefill_tokens_per_second", "decode_tokens_per_second", "rows"}  # what a row says by its test
    for row in rows:
        checks.that(None not in row and figures.keys() - by_name <= row.keys(), f"bench csv: {figures.keys() - by_name - row.keys()} is not there")
        checks.that(all(row[key] == str(figures[key]) for key in ("model", "device", "driver", "kv", "depth", "weight_bytes_per_token")), f"bench csv: {row}")
        checks.that(float(row["bandwidth_bytes_per_second"]) > 0 and float(row["peak_device_bytes"]) > 0, f"bench csv: {row}")
    only = list(csv.DictReader(bpdq(*bench, "-o", "csv", "-p", "0").stdout.decode().splitlines()))
    checks.that([row["test"] for row in only] == ["decode 4"], f"bench csv without a prefill: {only}")
    batch = checks.json(bpdq("bench", path, "-p", "0", "-n", "4", "--batch", "3", "-r", "1", "--json"), "decode_tokens_per_second", "batch")
    checks.that(batch.get("batch") == 3, f"bench --batch 3: {batch}")


def names(checks, folder):
    """A file system's names are bytes. What is no UTF-8 in them shows as U+FFFD in JSON."""
    model, output = folder / os.fsdecode(b"model-\xff"), folder / os.fsdecode(b"out-\xfe")
    model.symlink_to(CHECKPOINTS[0])
    for form in ("json", "md", "csv"):
        result = bpdq("bench", model, "-p", "2", "-n", "2", "-r", "1", "-o", form)
        checks.that(result.returncode == 0 and "model-\ufffd" in result.stdout.decode(), f"bench of a name in bytes, {form}: {result}")
    result = bpdq("logits", model, "--ids", "1,2", "-o", output, "--json")
    checks.that(result.returncode == 0 and json.loads(result.stdout)["output"].endswith("out-\ufffd"), f"logits to a name in bytes: {result}")
    if b"quantize" in bpdq("--help").stdout:
        result = bpdq("quantize", MODEL, folder / os.fsdecode(b"q-\xff"), "--method", "rtn", "--json", "-q")
        checks.that(result.returncode == 0 and json.loads(result.stdout)["output"].endswith("q-\ufffd"), f"quantize to a name in bytes: {result}")


def operations(checks):
    """bench-ops: which operations there are, and the bytes of attention: 2 heads of 32 dimensions, keys and values."""
    bench = ["bench-ops", "--shape", "tiny", "-q", "--json"]
    figures = checks.json(bpdq(*bench), "device", "driver", "kv", "context", "rows")
    rows = {row["operation"]: row for row in figures.get("rows", [])}
    checks.that(list(rows) == ["qkv", "output", "gate_up", "down", "head", "rope+attention", "top_k 1", "top_k 64"], f"bench-ops: {list(rows)}")
    checks.that(all(row["seconds"] > 0 and row["bytes"] > 0 and row["bandwidth_share"] > 0 for row in rows.values()), f"bench-ops: {rows}")
    pair = rows.get("rope+attention", {})
    checks.that(pair.get("bytes") == 513 * 2 * 2 * 32 * 2 and pair.get("rows") == 513, f"bench-ops: {pair}")
    pair = checks.json(bpdq(*bench, "-m", "8", "--depth", "100", "--ctx", "256", "--kv", "q8", "--operation", "rope+attention"), "kv", "context", "rows")
    checks.that(pair.get("kv") == "q8" and pair.get("context") == 256, f"bench-ops --kv q8: {pair}")
    checks.that([row["bytes"] for row in pair.get("rows", [])] == [108 * 2 * 2 * (32 + 4)], f"bench-ops --kv q8: {pair}")
    checks.failure(bpdq(*bench, "-m", "8", "--operation", "top_k 1"), "top_k 1", "rope+attention")
    checks.failure(bpdq(*bench, "--depth", "131072"), "131071")


def layer(checks, folder):
    if b"quantize-layer" not in bpdq("--help").stdout:
        return
    result = bpdq("quantize-layer", SHARED / "vectors" / "k2_g64.safetensors", folder / "layer", "--planes", "2", "--group", "64", "--method", "rtn", "-q")
    report = checks.json(result, "herr", "herr_zero", "bits_per_weight", "planes", "group")
    checks.that(0 < report.get("herr", 0) < report.get("herr_zero", 0), f"quantize-layer: {report}")
    data = (folder / "layer").read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    checks.that({name: entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"c": "BF16", "B": "I32", "Q": "F32"}, f"{header}")


def main():
    checks = Checks()
    with scratch() as name:
        folder = Path(name)
        for path in CHECKPOINTS:
            checkpoint(checks, path, folder)
        evaluation(checks, CHECKPOINTS[0], folder)
        divergence(checks, MODEL, folder)
        generation(checks, MODEL)
        room(checks, CHECKPOINTS[0], folder)
        reports(checks, CHECKPOINTS[0])
        names(checks, folder)
        operations(checks)
        layer(checks, folder)
        stream = subprocess.run(f"'{BPDQ}' run '{CHECKPOINTS[0]}' -p x -n 400 --temp 0 -q | head -c 1", shell=True, capture_output=True, env=environment())
        checks.that(len(stream.stdout) == 1 and b"error" not in stream.stderr, f"run | head: {stream}")
    checks.finish()


main()
