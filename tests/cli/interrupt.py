"""Ctrl-C: every long command stops cleanly, says "interrupted" in one line, exits with 1 and leaves nothing half-made. On a terminal, chat
goes on after it, edits lines and keeps a history."""

import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))
from cli import BPDQ, MODEL, SHARED, TIMEOUT, Checks, bpdq, environment, scratch, start, wait_for_handler  # noqa: E402

TEXT = SHARED / "data" / "classics-test.txt"


def expect_interrupted(checks, process, what, log_lines=False):
    """Ended by the first SIGINT; with `log_lines`, lines of progress may stand before the one of the error."""
    out, err = process.communicate(timeout=TIMEOUT)
    lines = err.decode().splitlines()
    checks.that(process.returncode == 1, f"{what}: exit code {process.returncode}")
    checks.that(lines and lines[-1] == "bpdq: error: interrupted", f"{what}: last line {lines[-1:]}")
    checks.that(sum(line.startswith("bpdq: error") for line in lines) == 1, f"{what}: {lines}")
    checks.that(log_lines or len(lines) == 1, f"{what}: more than one line: {lines}")
    return out


def commands(checks, folder):
    process = start("run", MODEL, "-p", "Once upon a time", "-n", "0", "-q")
    process.stdout.read(1)  # it generates
    process.send_signal(signal.SIGINT)
    expect_interrupted(checks, process, "run")

    process = start("run", MODEL, "-p", "Once upon a time", "-n", "0")  # anywhere from start to generation
    wait_for_handler(process)
    process.send_signal(signal.SIGTERM)
    expect_interrupted(checks, process, "run while it loads", log_lines=True)

    process = start("eval", MODEL, "--text", TEXT)
    wait_for_handler(process)
    process.send_signal(signal.SIGINT)
    out = expect_interrupted(checks, process, "eval")
    checks.that(out == b"", "eval prints scores after an interrupt")

    process = start("run", MODEL, "-f", "-", stdin=-1)
    wait_for_handler(process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    expect_interrupted(checks, process, "run that waits for its prompt")

    ids = ",".join(["7"] * 2000)
    process = start("logits", MODEL, "--ids", ids, "-o", folder / "logits")
    while process.poll() is None and not list(folder.glob("logits.partial*")):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT)
    if process.returncode == 1:  # else it was done before the signal came
        checks.that(not (folder / "logits").exists(), "logits: an interrupted run leaves its output")
    checks.that(not list(folder.glob("logits.partial*")), "logits: leaves a temporary file")


def quantizing(checks, folder):
    if b"  quantize " not in bpdq("--help").stdout:
        return
    process = start("quantize", MODEL, folder / "q", "--method", "reference", "--calib", SHARED / "data" / "classics-calibration.txt", "--samples", "64")
    wait_for_handler(process)
    process.send_signal(signal.SIGINT)
    expect_interrupted(checks, process, "quantize", log_lines=True)
    checks.that(not (folder / "q").exists(), "quantize: an interrupted run leaves its output folder")


class Terminal:
    """bpdq on a pseudo-terminal of its own."""

    def __init__(self, folder, *words):
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execve(BPDQ, [str(BPDQ), *map(str, words)], environment({"XDG_STATE_HOME": str(folder), "TERM": "xterm"}))
        self.seen = b""
        self.ended = False

    def wait_for(self, text, behind=0, seconds=TIMEOUT):
        """Until the output behind that position holds the text; the position behind it, or -1 when the program ends first."""
        deadline = time.monotonic() + seconds
        while text not in self.seen[behind:] and time.monotonic() < deadline:
            if not select.select([self.descriptor], [], [], 1)[0]:
                continue
            try:
                chunk = os.read(self.descriptor, 4096)
            except OSError:
                chunk = b""
            if not chunk:
                self.ended = True
                return -1
            self.seen += chunk
        position = self.seen.find(text, behind)
        return position + len(text) if position >= 0 else -1

    def send(self, data):
        os.write(self.descriptor, data)

    def processor_time(self):
        return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]  # the user's and the system's ticks

    def wait_until_idle(self):
        """Until the program uses no processor time: then it waits for something, as for a terminal that takes no output."""
        before = None
        while before != self.processor_time():
            before = self.processor_time()
            time.sleep(0.3)

    def leave(self):
        """Ctrl-D until the program ends: one that comes before the terminal is raw is the end of a line to the terminal."""
        for _ in range(30):
            self.send(b"\x04")
            self.wait_for(b"\0never\0", seconds=1)
            if self.ended:
                return

    def exit_code(self):
        """Its exit code; killed (-9) where it does not end by itself."""
        self.wait_for(b"\0never\0")
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def conversation(checks, folder):
    terminal = Terminal(folder, "chat", MODEL, "--temp", "0")
    ready = terminal.wait_for(b"> ")
    checks.that(ready > 0, f"chat shows no prompt: {terminal.seen!r}")
    terminal.send(b"Helo\x1b[D\x1b[Dl\n")  # two steps left and a letter: Hello
    asked = terminal.wait_for(b"\n", ready)
    answered = terminal.wait_for(b" ", asked + 40)  # in the middle of an answer that fills the context if nobody stops it
    terminal.send(b"\x03")
    again = terminal.wait_for(b"> ", answered)
    checks.that(min(asked, answered, again) > 0, f"chat does not go on after Ctrl-C: {terminal.seen[-300:]!r}")
    terminal.send(b"/help\n")
    helped = terminal.wait_for(b"/exit", again)
    checks.that(helped > 0, "chat: /help says nothing")
    terminal.wait_for(b"> ", helped)
    terminal.send(b"\x03")  # at the prompt: says how to leave, and stays
    checks.that(terminal.wait_for(b"leaves", helped) > 0, "chat: Ctrl-C at the prompt")
    terminal.leave()
    checks.that(terminal.exit_code() == 0, "chat: Ctrl-D does not leave with 0")
    path = folder / "bpdq" / "history"
    history = path.read_text() if path.exists() else ""
    checks.that("Hello" in history, f"chat: the edited line is not in the history: {history!r}")

    terminal = Terminal(folder, "chat", MODEL, "--temp", "0", "-n", "4")
    ready = terminal.wait_for(b"> ")
    terminal.send(b"\x1b[A\x1b[A\n")  # two lines up: the first message of the last time
    checks.that(terminal.wait_for(b"Hello", ready) > 0, f"chat: no history: {terminal.seen!r}")
    terminal.wait_for(b"tokens/s", ready)
    terminal.send(b"/exit\n")
    checks.that(terminal.exit_code() == 0, "chat: /exit does not leave with 0")


def blocked_output(checks, folder):
    """Ctrl-C while the answer waits for a terminal that Ctrl-S has stopped: the write fails, and the chat goes on."""
    terminal = Terminal(folder, "chat", MODEL, "--temp", "0")
    ready = terminal.wait_for(b"> ")
    terminal.send(b"Hello\n")
    asked = terminal.wait_for(b"\n", ready)
    answered = terminal.wait_for(b" ", asked + 40)
    terminal.send(b"\x13")
    terminal.wait_until_idle()
    terminal.send(b"\x03")
    again = terminal.wait_for(b"> ", answered)
    checks.that(min(asked, answered, again) > 0, f"chat does not go on after Ctrl-C on a stopped terminal: {terminal.seen[-300:]!r}")
    terminal.leave()
    checks.that(terminal.exit_code() == 0, f"chat: an answer cut on a stopped terminal: {terminal.seen[-300:]!r}")


def progress(checks):
    terminal = Terminal(Path("/"), "eval", MODEL, "--text", TEXT, "--ctx", "64")
    checks.that(terminal.wait_for(b"evaluating [") > 0, "no progress bar on a terminal")
    terminal.send(b"\x03")
    code = terminal.exit_code()
    checks.that(code == 1 and b"bpdq: error: interrupted" in terminal.seen, f"eval on a terminal: {code} {terminal.seen[-200:]!r}")


def main():
    checks = Checks()
    with scratch() as name:
        folder = Path(name)
        commands(checks, folder)
        quantizing(checks, folder)
        conversation(checks, folder)
        blocked_output(checks, folder)
        progress(checks)
    checks.finish()


main()
