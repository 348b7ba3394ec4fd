"""The scripts that draw, compare and measure: plot-report and compare-methods on the small model, bench and bench-load on tiny ones, and what
sm86-report makes of a small piece of machine code."""

import csv
import os
import subprocess
import struct
import sys
import types
import xml.etree.ElementTree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))
from cli import BPDQ, MODEL, SHARED, TIMEOUT, Checks, bpdq, environment, scratch  # noqa: E402

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS / "sm86"))
import card  # noqa: E402
import sass  # noqa: E402
import warp  # noqa: E402

DISASSEMBLY = Path(__file__).resolve().parents[1] / "data" / "sm86-loop.sass"


def script(name, *words, env=None):
    return subprocess.run([sys.executable, SCRIPTS / name, *map(str, words)], capture_output=True, text=True, env=environment(env), timeout=TIMEOUT)


def words_of(drawing):
    return " ".join(element.text or "" for element in xml.etree.ElementTree.parse(drawing).iter() if element.tag.endswith("text"))


def plot_report(checks, folder):
    quantized = bpdq("quantize", MODEL, folder / "q", "--method", "rtn", "--quiet")
    checks.that(quantized.returncode == 0, f"quantize: {quantized.stderr!r}")
    drawn = script("plot-report", folder / "q", "--out", folder / "plot")
    checks.that(drawn.returncode == 0, f"plot-report: {drawn.stderr}")
    for kind in ("error", "time"):
        words = words_of(folder / f"plot-{kind}.svg")
        checks.that("layers.0.mlp.down_proj" in words and "rtn, 2.750 bits per weight" in words, f"plot-report: {kind}: {words[:200]}")
    refused = script("plot-report", MODEL)
    checks.that(refused.returncode == 1 and "quantize_report.json" in refused.stderr and "Traceback" not in refused.stderr, f"plot-report: {refused.stderr}")


def compare_methods(checks, folder):
    words = [MODEL, "--calib", SHARED / "data" / "classics-calibration.txt", "--test", SHARED / "data" / "classics-test.txt", "--methods", "rtn"]
    words += ["--planes", "2,3", "--groups", "64", "--ctx", "128", "--every", "200", "--bpdq", BPDQ, "--work", folder / "work", "--out", folder / "methods"]
    compared = script("compare-methods", *words)
    checks.that(compared.returncode == 0, f"compare-methods: {compared.stderr}")
    with (folder / "methods.csv").open() as file:
        rows = list(csv.DictReader(file))
    checks.that([(r["method"], r["planes"]) for r in rows] == [("dense", ""), ("rtn", "2"), ("rtn", "3")], f"compare-methods: {rows}")
    two, three = rows[1:]
    checks.that(float(two["kl"]) > float(three["kl"]) > 0, f"compare-methods: KL {two['kl']} at 2 planes, {three['kl']} at 3")
    checks.that(float(two["layer_error"]) > float(three["layer_error"]) > 0, "compare-methods: a third plane does not lower the layers' error")
    checks.that((folder / "methods.md").read_text().count("\n") == 5 and "rtn" in words_of(folder / "methods.svg"), "compare-methods: table or plot")
    again = script("compare-methods", *words)
    checks.that(again.returncode == 0 and "quantize" not in again.stderr, f"compare-methods does not keep its rows: {again.stderr}")


def bench_load(checks, folder):
    loaded = script("bench-load", "--shape", "tiny", "--backends", "cpu", "--loads", "2", "--folder", folder, "--bpdq", BPDQ)
    checks.that(loaded.returncode == 0, f"bench-load: {loaded.stderr}")
    rows = [line.split("|") for line in loaded.stdout.splitlines() if line.startswith("| cpu")]
    checks.that(len(rows) == 2 and all(float(row[4]) > 0 and float(row[6]) > 0 for row in rows), f"bench-load: {loaded.stdout}")
    checks.that(not list(folder.glob("bpdq-load-*")), "bench-load leaves its checkpoint behind")


# A bpdq whose CUDA is the CPU, whose Vulkan device holds nothing and does not run, and that fails as no bpdq does on "broken".
OTHER_DEVICES = """#!{python}
import os, sys
words = sys.argv[1:]
backend = words[words.index("--backend") + 1] if "--backend" in words else ""
if words[0] == "devices":
    card = '"backend": "vulkan", "name": "Small card", "driver": "1.2", "kind": "discrete"'
    sys.exit(print('{{"devices": [{{%s, "memory_total": 8192, "memory_free": 4096}}]}}' % card))
if backend == "vulkan":
    sys.exit("bpdq: error: Small card is out of order")
if backend == "broken":
    sys.exit(print("no report"))
os.execv("{bpdq}", ["{bpdq}", *("cpu" if word == "cuda" else word for word in words)])
"""

# Prints what ncu --csv prints, but runs nothing.
PROFILER = """#!/bin/sh
case "$*" in *" --operation head "*) echo '==ERROR== ERR_NVGPUCTRPERM' >&2; exit 1;; esac
cat <<'END'
==PROF== Connected to process 4242 (/usr/bin/bpdq)
operation,rows,columns
"qkv",256,128
==PROF== Disconnected from process 4242
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"
"0","4242","bpdq","127.0.0.1","void bitserial_kernel<2, 128, 1, 1>(bitserial_arguments)","1","13","(256, 1, 1)","(16, 1, 1)","0","8.6","Command line profiler metrics","smsp__inst_executed.sum","inst","2,048"
END
"""


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def table_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def bench(checks, folder):
    """Two backends that measure, one of them profiled, and one that cannot; then a run that breaks off."""
    (folder / "tools").mkdir()
    program(folder / "tools" / "ncu", PROFILER)
    other = program(folder / "other-bpdq", OTHER_DEVICES.format(python=sys.executable, bpdq=BPDQ))
    words = ["--shapes", "tiny", "--scenarios", "plain,depth-q8", "--prefill", "4", "--decode", "2", "--depth", "8", "--tokens", "1", "--bpdq", other, "--out", folder / "b"]
    path = {"PATH": f"{folder / 'tools'}{os.pathsep}{os.environ['PATH']}"}
    measured = script("bench", *words, "--backends", "cpu,cuda,vulkan", env=path)
    checks.that(measured.returncode == 0, f"bench: {measured.stderr}")
    models, operations = table_of(folder / "b-models.csv"), table_of(folder / "b-operations.csv")
    by_backend = {name: [row for row in models if row["backend"] == name] for name in ("cpu", "cuda", "vulkan")}
    for name in ("cpu", "cuda"):
        tests = [(r["scenario"], r["test"], r["kv"], r["depth"]) for r in by_backend[name]]
        checks.that(tests == [("plain", "prefill 4", "f16", "0"), ("plain", "decode 2", "f16", "0"), ("depth-q8", "decode 2", "q8", "8")], f"bench: {tests}")
        checks.that(all(float(r["tokens_per_second"]) > 0 and r["device"] and r["driver"] and r["commit"] for r in by_backend[name]), f"bench: {by_backend[name]}")
        rows = {(r["operation"], r["kv"], r["depth"]): r for r in operations if r["backend"] == name}
        checks.that({("rope+attention", "f16", "512"), ("rope+attention", "q8", "8"), ("qkv", "", "")} <= rows.keys(), f"bench: {rows.keys()}")
        profiled = {key[0] for key, row in rows.items() if row["instructions_per_weight"]}
        checks.that(profiled == (set() if name == "cpu" else {"qkv", "output", "gate_up", "down"}), f"bench: instructions of {profiled} on {name}")
        checks.that(name == "cpu" or rows["qkv", "", ""]["instructions_per_weight"] == "2.000", f"bench: {rows['qkv', '', '']}")  # 2,048 x 32 / (256 x 128)
    notes = [r["note"] for r in by_backend["vulkan"]] + [r["note"] for r in operations if r["backend"] == "vulkan"]
    checks.that(["needs at least" in note for note in notes] == [True, True, False, False], f"bench: what was left out: {notes}")
    checks.that(all("out of order" in note for note in notes[2:]), f"bench: what was left out: {notes}")
    text = (folder / "b.md").read_text()
    heads = text.split("\n\n")[0].splitlines()
    checks.that([head.split(":")[0] for head in heads] == ["cpu", "cuda", "vulkan"] and "Small card, driver 1.2, commit" in heads[2], f"bench: {heads}")
    checks.that("| cuda | tiny | 2 | 128 | 8 | depth-q8 |" in text and "left out: needs" in text, f"bench: {text}")
    checks.that("tiny g=128 depth-q8" in words_of(folder / "b-decode.svg"), "bench: plot of decoding")
    checks.that("rope+attention m=1 q8 d=8" in words_of(folder / "b-operations.svg"), "bench: plot of operations")

    broken = script("bench", *words, "--backends", "vulkan,broken", env=path)
    checks.that(broken.returncode == 1 and "b-models.csv.partial" in broken.stderr, f"bench that breaks off: {broken.stderr}")
    checks.that(len(table_of(folder / "b-models.csv.partial")) == 2 and table_of(folder / "b-models.csv") == models, "bench that breaks off loses rows")
    wrong = script("bench", "--shapes", "tiny,huge")
    checks.that(wrong.returncode == 2 and "'huge' is none of tiny" in wrong.stderr, f"bench --shapes: {wrong.stderr}")


def refusal(action):
    try:
        action()
    except sass.Unreadable as problem:
        return str(problem)
    return ""


def sm86_report(checks, folder):
    """Two warps of which 40 lanes read 16 bytes in each of five turns; the last eight lanes' warp has lost the others."""
    text = DISASSEMBLY.read_text()
    code = sass.parse_functions(text)["_Z4loopiiPK5uint4"]
    checks.that(len(code) == 16 and code[4].guard == "P0" and code[6].operands == ("R8", "[R4.64]"), f"sm86-report: instructions {code}")
    checks.that(sass.loops(code) == [(0x60, 0xC0)], f"sm86-report: loops {sass.loops(code)}")
    launch = types.SimpleNamespace(grid=(1, 1, 1), threads=64, parameters=struct.pack("<iiQ", 40, 5, 1 << 40))
    block = warp.Block("loop", warp.Program(code), launch, (0, 0, 0), {}, None).run()
    once, turns = 6 + 1, 5 * 7
    checks.that([each.executed for each in block.warps] == [once + turns] * 2, f"sm86-report: executed {[each.executed for each in block.warps]}")
    checks.that(block.streamed == 40 * 16 * 5, f"sm86-report: {block.streamed} bytes streamed")
    checks.that(block.pipes["tensor"] == 10 and block.pipes["alu"] == 2 * (1 + 3 * 5), f"sm86-report: pipes {block.pipes}")
    checks.that(max(block.most_flying) == 512, f"sm86-report: {block.most_flying} bytes in flight")
    changed = sass.parse_functions(text.replace("R2, c[0x0][0x164]", "R8, c[0x0][0x164]"))["_Z4loopiiPK5uint4"]
    follow = lambda: warp.Block("loop", warp.Program(changed), launch, (0, 0, 0), {}, None).run()  # noqa: E731
    checks.that("depends on a number that is not known" in refusal(follow), "sm86-report: a branch on memory's contents is guessed")
    newer = sass.parse_functions(text.replace("BMMA.168128.AND.POPC", "HGMMA.64x8x16.F32"))["_Z4loopiiPK5uint4"]
    checks.that("HGMMA" in refusal(lambda: warp.Program(newer)), "sm86-report: an instruction that it does not know")
    checks.that("no function" in refusal(lambda: sass.parse_functions("nothing")), "sm86-report: text without functions")
    resources = sass.parse_resources(" Function _Z1k:\n  REG:64 STACK:8 SHARED:1028 LOCAL:0 CONSTANT[0]:488\n")
    checks.that(resources == {"_Z1k": sass.Resources(64, 8, 1028)}, f"sm86-report: resources {resources}")
    for registers, shared, threads, blocks, limit in (
        (64, 1028, 256, 4, "registers"), (72, 36000, 448, 2, "registers"), (32, 0, 1024, 1, "warps"), (16, 0, 32, 16, "blocks"), (128, 74752, 128, 1, "shared memory")
    ):  # fmt: skip
        fits = card.occupancy(registers, shared, threads)
        checks.that((fits.blocks, fits.limit) == (blocks, limit), f"sm86-report: {registers} registers, {shared} bytes, {threads} threads: {fits}")
    refused = script("sm86-report", "--toolkit", folder / "no-toolkit", "--work", folder / "work")
    checks.that(refused.returncode == 1 and "nvcc not found" in refused.stderr and "Traceback" not in refused.stderr, f"sm86-report: {refused.stderr}")


def main():
    checks = Checks()
    with scratch() as name:
        plot_report(checks, Path(name))
        compare_methods(checks, Path(name))
        bench_load(checks, Path(name))
        bench(checks, Path(name))
        sm86_report(checks, Path(name))
    checks.finish()


main()
