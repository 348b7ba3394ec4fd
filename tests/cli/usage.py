"""Help, version, wrong usage: exit codes and the one line that says what is wrong."""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))
from cli import BPDQ, MODEL, Checks, bpdq  # noqa: E402

COMMANDS = {
    "run": ["-p, --prompt TEXT", "--temp T", "--top-k K", "copies all logits", "--top-p P", "--min-p P", "--seed S", "--ctx N", "at least", "default 256", "--activations f32|16|8"],
    "chat": ["--system TEXT", "--chat-template FILE", "--kv f16|q8", "default 0: until the context", "at most 4096", "/reset", "/exit"],
    "devices": ["--json"],
    "info": ["--ctx N", "--kv f16|q8", "--activations f32|16|8", "at most 4096", "which all model commands take"],
    "tokenize": ["-p, --prompt TEXT", "--ids 1,2,3", "--json", "--activations f32|16|8", "which all model commands take"],
    "logits": ["--ids 1,2,3", "-o, --output FILE", "the number of ids"],
    "eval": ["--text FILE", "--against DENSE", "--ctx N", "default: 1024", "--every N"],
    "quantize": ["--planes K", "--group G", "--calib FILE", "--samples N", "--seqlen L", "--method WORD", "--resume", "--devices N,N"],
    "quantize-layer": ["--planes K", "--group G", "--method WORD", "C f32 [K, K]", "R f32 [N, K]", "--json"],
    "bench": ["--shape NAME", "--depth D", "default: --depth", "--batch B", "md|json|csv", "--memory-cap SIZE", "--threads N"],
    "bench-ops": ["--shape NAME"],
}

# What a command would ignore is no option of it, but for the device options of info and tokenize: a script may give all model commands the same.
DEVICE = ["--backend", "--device", "--threads", "--memory-cap"]
ABSENT = {
    "run": ["--chat-template"],
    "devices": DEVICE,
    "info": ["--chat-template"],
    "tokenize": ["--chat-template", "--kv", "--ctx"],
    "logits": ["--chat-template"],
    "eval": ["--chat-template"],
    "quantize-layer": ["--backend", "--samples"],
    "bench": ["--chat-template"],
    "bench-ops": ["--chat-template"],
}

WRONG = [
    (["rnu"], ["'rnu'", "did you mean 'run'"]),
    (["evaluate"], ["'evaluate'"]),
    (["--verison"], ["--verison"]),
    (["run"], ["MODEL is missing"]),
    (["run", MODEL], ["-p TEXT"]),
    (["run", MODEL, "extra", "-p", "x"], ["'extra'"]),
    (["run", MODEL, "-p"], ["-p needs a value"]),
    (["run", MODEL, "-p", "x", "--tmep", "1"], ["--tmep", "did you mean --temp"]),
    (["run", MODEL, "-p", "x", "-z"], ["-z"]),
    (["run", MODEL, "-p", "x", "-n", "ten"], ["-n", "'ten' is not a whole number"]),
    (["run", MODEL, "-p", "x", "-n", "1.5"], ["'1.5' is not a whole number"]),
    (["run", MODEL, "-p", "x", "-n", ""], ["is not a whole number"]),
    (["run", MODEL, "-p", "x", "-n", "99999999999999999999"], ["-n"]),
    (["run", MODEL, "-p", "x", "--temp", "-1"], ["--temp", "outside"]),
    (["run", MODEL, "-p", "x", "--temp", "nan"], ["--temp"]),
    (["run", MODEL, "-p", "x", "--top-p", "1.5"], ["--top-p"]),
    (["run", MODEL, "-p", "x", "--top-p", "0"], ["--top-p", "outside"]),
    (["run", MODEL, "-p", "x", "--threads", "1025"], ["--threads", "outside 0 to 1024"]),
    (["run", MODEL, "-p", "x", "--backend", "abacus"], ["--backend", "'abacus' is none of cpu, vulkan, cuda"]),
    (["run", MODEL, "-p", "x", "--backend", ""], ["--backend", "none of cpu, vulkan, cuda"]),
    (["bench-ops", "--shape", "qwen2.5-0.5b", "--backend", "abacus"], ["--backend", "'abacus'"]),
    (["run", MODEL, "-p", "x", "--ctx", "0"], ["--ctx"]),
    (["run", MODEL, "-p", "x", "--ctx=12x"], ["--ctx", "'12x'"]),
    (["run", MODEL, "-p", "x", "--activations", "4"], ["--activations", "f32"]),
    (["run", MODEL, "-p", "x", "--kv", "f32"], ["--kv", "q8"]),
    (["run", MODEL, "-p", "x", "--memory-cap", "lots"], ["--memory-cap", "GiB"]),
    (["run", MODEL, "-p", "x", "--json=1"], ["takes no value"]),
    (["info", MODEL, "--activations", "4"], ["--activations", "f32"]),
    (["tokenize", MODEL, "-p", "x", "--backend", "abacus"], ["--backend", "'abacus'"]),
    (["tokenize", MODEL], ["--ids"]),
    (["tokenize", MODEL, "-p", "x", "--ids", "1"], ["--ids"]),
    (["tokenize", MODEL, "--ids", "1,b"], ["'1,b'"]),
    (["logits", MODEL, "--ids", "1"], ["-o FILE"]),
    (["logits", MODEL, "-o", "x"], ["--ids"]),
    (["logits", MODEL, "--ids", "", "-o", "x"], ["--ids"]),
    (["logits", MODEL, "--ids", "99999999999", "-o", "x"], ["--ids"]),
    (["eval", MODEL], ["--text"]),
    (["eval", MODEL, "--text", "x", "--ctx", "1"], ["--ctx"]),
    (["eval", MODEL, "--text", "x", "--every", "0"], ["--every"]),
    (["bench"], ["MODEL or --shape"]),
    (["bench", MODEL, "--shape", "qwen2.5-7b"], ["exclude"]),
    (["bench", MODEL, "--planes", "3"], ["--planes", "belong to --shape"]),
    (["bench", MODEL, "--group", "64"], ["--group", "belong to --shape"]),
    (["bench", "--shape", "qwen2.5-0.5b", "--planes", "9"], ["--planes", "outside 1 to 8"]),
    (["bench", "--shape", "qwen2.5-0.5b", "--group", "48"], ["--group", "multiple of 32"]),
    (["bench", "--shape", "qwen2.5-0.5b", "-p", "0", "-n", "0"], ["nothing to measure"]),
    (["bench", "--shape", "qwen2.5-0.5b", "-o", "xml"], ["-o", "csv"]),
    (["bench-ops"], ["--shape"]),
    (["bench-ops", "--shape", "qwen2.5-0.5b", "--depth", "500", "--ctx", "500"], ["--ctx", "no room"]),
    (["quantize", MODEL], ["DST is missing"]),
    (["quantize", MODEL, "dst"], ["--calib"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--planes", "0"], ["--planes"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--group", "100"], ["--group"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--method", "magic"], ["--method", "reference"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--head-bits", "1"], ["--head-bits", "2 to 8"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--head-bits", "9"], ["--head-bits", "outside"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--seqlen", "7"], ["--seqlen", "outside 8 to 1048576"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--samples", "16777217"], ["--samples", "outside 0 to 16777216"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--bits", "9.5"], ["--bits", "outside 1 to 9"]),
    (["quantize", MODEL, "dst", "--method", "rtn", "--bits", "3"], ["--calib"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--iterations", "0"], ["--iterations", "outside 1 to 1000"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--target-damp", "0"], ["--target-damp", "outside"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--restarts", "1", "--no-starts"], ["--restarts", "--no-starts"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--backend", "metal"], ["--backend", "'metal'"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--algebra", "metal"], ["--algebra", "'metal'", "cuda:N"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--algebra", "cuda:0+cpu"], ["--algebra", "'cuda:0+cpu'"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--devices", "0,0"], ["--devices", "twice"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--devices", "0", "--algebra", "cuda"], ["--devices", "--algebra"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--device-memory", "24"], ["--device-memory", "CUDA", "--devices"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--devices", "0", "--device-memory=-1"], ["--device-memory"]),
    (["quantize", MODEL, "dst", "--calib", "x", "--device", "0"], ["--device", "--backend"]),
    (["quantize-layer", "in"], ["OUT.safetensors is missing"]),
    (["quantize-layer", "in", "out", "--devices", ""], ["--devices", "0,1"]),
    (["quantize-layer", "in", "out", "--devices", "0,"], ["--devices", "'0,'"]),
    (["quantize-layer", "in", "out", "--devices", "0;1"], ["--devices", "'0;1'"]),
    (["quantize-layer", "in", "out", "--devices=-1"], ["--devices", "'-1'"]),
    (["quantize-layer", "in", "out", "--devices", "99999999999999999999"], ["--devices"]),
    (["quantize-layer", "in", "out", "--devices", ",".join(map(str, range(17)))], ["--devices", "16"]),
    (["completion"], ["SHELL is missing"]),
    (["completion", "tcsh"], ["bash"]),
]


def main():
    checks = Checks()
    listing = bpdq("--help")
    checks.that(listing.returncode == 0 and b"usage: bpdq COMMAND" in listing.stdout, "--help explains the usage")
    version = bpdq("--version")
    checks.that(version.returncode == 0 and version.stdout.startswith(b"bpdq 0."), f"--version: {version.stdout}")
    nothing = bpdq()
    checks.that(nothing.returncode == 2 and nothing.stdout == b"" and b"usage" in nothing.stderr, "no command is wrong usage")
    built = listing.stdout.decode()
    for name, parts in COMMANDS.items():
        if f"  {name} " not in built and name.startswith("quantize"):
            continue  # built without OpenBLAS
        result = bpdq(name, "--help")
        text = result.stdout.decode()
        checks.that(result.returncode == 0 and result.stderr == b"", f"{name} --help: {result.stderr}")
        for part in [f"usage: bpdq {name}", "examples:", f"\n  bpdq {name}", *parts]:
            checks.that(part in text or (part.startswith("\n") and f"| bpdq {name}" in text), f"{name} --help does not say '{part}'")
        for option in ABSENT.get(name, []):
            checks.that(f" {option} " not in text, f"{name} --help offers {option}, which it ignores")
            checks.wrong_usage(bpdq(name, option, "1"), f"unknown option {option}")
        checks.that(all(len(line) <= 160 for line in text.splitlines()), f"{name} --help has lines beyond 160 columns")
        checks.that(bpdq("help", name).stdout == result.stdout, f"help {name} differs from {name} --help")
    for words, parts in WRONG:
        if str(words[0]).startswith("quantize") and "  quantize " not in built:
            continue
        checks.wrong_usage(bpdq(*words), *parts)

    for name in ("bpdq-cuda-bench", "bpdq-quantizer-bench"):  # built beside bpdq where there is a CUDA compiler
        if not BPDQ.with_name(name).exists():
            continue
        helped, wrong = (subprocess.run([BPDQ.with_name(name), word], capture_output=True, text=True) for word in ("--help", "--hepl"))
        checks.that(helped.returncode == 0 and helped.stdout.startswith(f"usage: {name}"), f"{name} --help: {helped}")
        checks.that(wrong.returncode == 2 and "--hepl" in wrong.stderr and "usage" in wrong.stderr and not wrong.stdout, f"{name} --hepl: {wrong}")

    script = bpdq("completion", "bash").stdout
    probe = script + b'\nCOMP_WORDS=(bpdq run --te); COMP_CWORD=2; _bpdq; echo "${COMPREPLY[@]}"\nCOMP_WORDS=(bpdq run --backend v); COMP_CWORD=3; _bpdq; echo "${COMPREPLY[@]}"\nCOMP_WORDS=(bpdq to); COMP_CWORD=1; _bpdq; echo "${COMPREPLY[@]}"\n'
    completed = subprocess.run(["bash", "-c", probe.decode()], capture_output=True, text=True)
    checks.that(completed.stdout.split() == ["--temp", "vulkan", "tokenize"], f"completion: {completed.stdout!r} {completed.stderr!r}")
    full = subprocess.run(["bash", "-c", f"'{BPDQ}' --help > /dev/full"], capture_output=True)
    checks.that(full.returncode == 1 and full.stderr.startswith(b"bpdq: error: standard output"), f"full stdout: {full.returncode} {full.stderr}")
    checks.finish()


main()
