"""What the command-line tests share: running bpdq, finding the models, counting failures."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BPDQ = Path(sys.argv[1]).resolve()
SHARED = Path(os.environ.get("BPDQ_SHARED", Path(__file__).resolve().parents[4] / "shared"))
MODEL = SHARED / "models" / "classics-12m"
CHECKPOINTS = sorted((SHARED / "vectors").glob("ckpt-*"))
TIMEOUT = 300

if not MODEL.is_dir() or not CHECKPOINTS:
    sys.exit(f"{SHARED}: no models and checkpoints there; set BPDQ_SHARED")


def environment(extra=None):
    """Without what a developer's shell may set: the tests choose the CPU."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("BPDQ_")}
    env.update({"BPDQ_BACKEND": "cpu", "LC_ALL": "C.UTF-8", **(extra or {})})
    return env


def bpdq(*words, stdin="", env=None):
    """Runs a command; text is bytes, because models write what they like."""
    return subprocess.run([BPDQ, *map(str, words)], input=stdin.encode(), capture_output=True, env=environment(env), timeout=TIMEOUT)


def start(*words, **kwargs):
    return subprocess.Popen([BPDQ, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), **kwargs)


def wait_for_handler(process):
    """Until the process catches SIGINT: what it gets before that kills it."""
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
        if caught & (1 << (signal.SIGINT - 1)):
            return
        time.sleep(0.002)
    raise AssertionError(f"ended before it could be interrupted: {process.communicate()}")


class Checks:
    """Collects failures, so that one run shows them all."""

    def __init__(self):
        self.count = self.failures = 0

    def that(self, holds, what):
        self.count += 1
        if not holds:
            self.failures += 1
            print(f"FAILED: {what}")

    def wrong_usage(self, result, *parts):
        """Exit code 2, one line on stderr, nothing on stdout."""
        self.one_error_line(result, 2, *parts)

    def failure(self, result, *parts):
        """Exit code 1, one line on stderr, nothing on stdout."""
        self.one_error_line(result, 1, *parts)

    def one_error_line(self, result, code, *parts):
        lines = result.stderr.decode(errors="replace").splitlines()
        words = " ".join(map(str, result.args[1:]))[:200]
        self.that(result.returncode == code, f"{words}: exit code {result.returncode}, not {code}: {lines[-1:]}")
        self.that(len(lines) == 1 and lines[0].startswith("bpdq: error: "), f"{words}: not one error line: {lines}")
        self.that(result.stdout == b"", f"{words}: writes to stdout although it fails: {result.stdout[:100]}")
        for part in parts:
            self.that(lines and part in lines[-1], f"{words}: '{part}' is not in {lines[-1:]}")

    def json(self, result, *keys):
        """Exit code 0 and one JSON object with these keys on stdout; the object."""
        words = " ".join(map(str, result.args[1:]))[:200]
        self.that(result.returncode == 0, f"{words}: exit code {result.returncode}: {result.stderr[-300:]}")
        try:
            value = json.loads(result.stdout)
        except ValueError:
            self.that(False, f"{words}: stdout is not one JSON object: {result.stdout[:200]}")
            return {}
        for key in keys:
            self.that(key in value, f"{words}: no key '{key}'")
        return value

    def finish(self):
        print(f"{self.count} checks, {self.failures} failed")
        sys.exit(1 if self.failures or not self.count else 0)


def scratch():
    return tempfile.TemporaryDirectory(prefix="bpdq-cli-")
