"""Running a command and measuring it: wall time, processor time and the peak of its memory."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TIME = "/usr/bin/time"
TIMEOUT = 3600  # seconds; a run that takes longer has failed
IDLE = 0.9  # a machine that does nothing else leaves its processors idle for this share of the time


class RunFailed(Exception):
    """A run that did not do its work. Nothing is measured by it, so the benchmark ends."""


@dataclass(frozen=True)
class Command:
    """What to run. `stdin` is text or a file. A program that `has_own_clock` times itself and prints the seconds last."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str | Path = ""
    has_own_clock: bool = False


@dataclass(frozen=True)
class Measured:
    """`user`, `system` and `max_rss` are of the process and the children that it waited for: of no server.

    They are None for a program with its own clock, whose preparations they would include.
    """

    seconds: float
    user: float | None
    system: float | None
    max_rss: int | None  # bytes
    output: str


def run(command: Command, folder: Path) -> Measured:
    """Runs the command in `folder` and fails loudly where it fails.

    GNU time stands between, because a process's peak memory counts from the fork: of this Python, it would be ours.
    """
    with tempfile.TemporaryDirectory() as scratch, open(Path(scratch) / "output", "w+b") as output:
        usage = Path(scratch) / "usage"
        argv = [TIME, "--format=%U %S %M", f"--output={usage}", *command.argv]
        stdin = open(command.stdin, "rb") if isinstance(command.stdin, Path) else subprocess.PIPE
        begin = time.perf_counter()
        process = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **command.env},
            cwd=folder,
            start_new_session=True,
        )
        # Not `wait(timeout)`, which looks only every 50 ms whether the process has ended.
        watchdog = threading.Timer(TIMEOUT, os.killpg, (process.pid, signal.SIGKILL))
        watchdog.start()
        try:
            process.communicate(None if isinstance(command.stdin, Path) else command.stdin.encode())
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
        finally:
            watchdog.cancel()
        seconds = time.perf_counter() - begin
        output.seek(0)
        text = output.read().decode(errors="replace")
        if process.returncode != 0:
            raise RunFailed(f"{' '.join(command.argv)[:300]} ended with {process.returncode}:\n{text[-3000:]}")
        user, system, max_rss = usage.read_text().split()[-3:]
    if command.has_own_clock:
        return Measured(float(text.split()[-1]), None, None, None, text)
    return Measured(seconds, float(user), float(system), int(max_rss) * 1024, text)


class Patience:
    """Waits, before a run, until what came before it is done: files that are written, servers that merge and vacuum.

    There is so much of it in all: on a machine where others work all day, too, the benchmark comes to an end.
    """

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def settle(self) -> float:
        """The share of the processors' time that was idle last."""
        os.sync()
        begin = time.monotonic()
        share = idle_share()
        while share < IDLE and self.left > 0:
            share = idle_share()
            self.left -= time.monotonic() - begin
            begin = time.monotonic()
        return share


def idle_share() -> float:
    """Of all processors, over a quarter of a second."""
    before = processor_time()
    time.sleep(0.25)
    idle, total = (now - then for now, then in zip(processor_time(), before, strict=True))
    return idle / total if total else 1.0


def processor_time() -> tuple[int, int]:
    """Idle and in all, since boot, in clock ticks: the fields of `cpu` in /proc/stat, the fourth and fifth being idle."""
    fields = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def warm(file: Path) -> None:
    """Reads a file, so that it lies in the page cache for every run alike."""
    buffer = bytearray(1 << 20)
    with open(file, "rb", buffering=0) as source:
        while source.readinto(buffer):
            pass
