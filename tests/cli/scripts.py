"""The scripts that draw, compare and measure: plot-report and compare-methods on the small model, bench-load on a tiny one."""

import csv
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))
from cli import BPDQ, MODEL, SHARED, TIMEOUT, Checks, bpdq, environment, scratch  # noqa: E402

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def script(name, *words):
    return subprocess.run([sys.executable, SCRIPTS / name, *map(str, words)], capture_output=True, text=True, env=environment(), timeout=TIMEOUT)


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


def main():
    checks = Checks()
    with scratch() as name:
        plot_report(checks, Path(name))
        compare_methods(checks, Path(name))
        bench_load(checks, Path(name))
    checks.finish()


main()
