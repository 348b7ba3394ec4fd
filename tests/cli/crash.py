"""Whatever ends a `quantize` (kill -9 at any moment, a full disk), finished blocks are kept and --resume makes the same files as a run that
nothing disturbed; a second run on the same output is refused."""

import filecmp
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))
from cli import MODEL, SHARED, TIMEOUT, Checks, bpdq, scratch, start  # noqa: E402

BLOCKS = 6
OPTIONS = ["--method", "gptq", "--calib", SHARED / "data" / "classics-calibration.txt", "--samples", "4", "--seqlen", "128", "-q"]


def begin(destination, *words, **kwargs):
    return start("quantize", MODEL, destination, *OPTIONS, *words, **kwargs)


def no_space():
    """For a child process: writing more than a few bytes to any file fails, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def finished_blocks(destination):
    return len(list(destination.with_name(destination.name + ".partial").glob("block-*.json")))


def wait_for_blocks(process, destination, count):
    while process.poll() is None and finished_blocks(destination) < count:
        time.sleep(0.002)


def check_same(checks, made, expected, what):
    names = {path.name for path in expected.iterdir()}
    checks.that({path.name for path in made.iterdir()} == names, f"{what}: other files than in an undisturbed run")
    for name in names - {"quantize_report.json"}:  # which holds times
        checks.that(filecmp.cmp(made / name, expected / name, shallow=False), f"{what}: {name} differs")
    checks.that(not made.with_name(made.name + ".partial").exists(), f"{what}: the work folder is left behind")


def kill_at(made, blocks, delay, *words):
    """False where the run was done before it could be killed."""
    process = begin(made, *words)
    wait_for_blocks(process, made, blocks)
    time.sleep(delay)
    process.kill()
    process.communicate()
    return process.returncode != 0


def kills(checks, folder, *words):
    """One run that is killed as each block is finished, and a moment later each time."""
    made, expected = folder / "killed", folder / "undisturbed"
    result = bpdq("quantize", MODEL, expected, *OPTIONS, *words)
    checks.that(result.returncode == 0, f"undisturbed: {result.stderr[-300:]}")
    for block in range(BLOCKS):
        if not kill_at(made, block, 0.04 * block, *words, *(["--resume"] if block else [])):
            break
        checks.that(not made.exists(), f"killed in block {block}: the output folder is there")
        checks.that(finished_blocks(made) >= block, f"killed in block {block}: finished blocks are lost")
    result = bpdq("quantize", MODEL, made, *OPTIONS, *words, "--resume")
    checks.that(result.returncode == 0, f"resumed after kills: {result.stderr[-300:]}")
    check_same(checks, made, expected, "resumed after kills")
    shutil.rmtree(made)
    shutil.rmtree(expected)


def full_disk(checks, folder):
    made = folder / "full"
    while not kill_at(made, 2, 0):
        shutil.rmtree(made)
    process = begin(made, "--resume", preexec_fn=no_space)
    out, err = process.communicate(timeout=TIMEOUT)
    lines = err.decode().splitlines()
    checks.that(process.returncode == 1 and out == b"", f"full disk: exit code {process.returncode}")
    checks.that(len(lines) == 1 and "cannot write" in lines[0] and "full.partial" in lines[0], f"full disk: {lines}")
    checks.that(2 <= finished_blocks(made) < BLOCKS, f"full disk: {finished_blocks(made)} finished blocks")
    checks.failure(bpdq("quantize", MODEL, made, *OPTIONS), "--resume")
    checks.that(finished_blocks(made) >= 2, "finished blocks were thrown away without a word")
    result = bpdq("quantize", MODEL, made, *OPTIONS, "--resume")
    checks.that(result.returncode == 0, f"resumed after a full disk: {result.stderr[-300:]}")


def two_runs(checks, folder):
    made = folder / "shared"
    process = begin(made)
    wait_for_blocks(process, made, 1)
    process.send_signal(signal.SIGSTOP)  # so that it is there until the others have been refused
    for words in ([], ["--resume"], ["--overwrite"]):
        checks.failure(bpdq("quantize", MODEL, made, *OPTIONS, *words), "shared.partial")
    process.kill()
    process.communicate()


def main():
    checks = Checks()
    if b"  quantize " not in bpdq("--help").stdout:
        return
    with scratch() as name:
        folder = Path(name)
        kills(checks, folder)
        kills(checks, folder, "--algebra", "cpu+cpu")
        full_disk(checks, folder)
        two_runs(checks, folder)
    checks.finish()


main()
