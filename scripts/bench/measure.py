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
    load: float  # the machine's one-minute load average as the run began: what else was going on
    output: str


def run(command: Command, folder: Path) -> Measured:
    """Runs the command in `folder` and fails loudly where it fails.

    GNU time stands between, because a process's peak memory counts from the fork: of this Python, it would be ours.
    """
    load = os.getloadavg()[0]
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
        return Measured(float(text.split()[-1]), None, None, None, load, text)
    return Measured(seconds, float(user), float(system), int(max_rss) * 1024, load, text)


def settle() -> None:
    """What earlier runs left to be written is written, before the next one begins."""
    os.sync()


def warm(file: Path) -> None:
    """Reads a file, so that it lies in the page cache for every run alike."""
    buffer = bytearray(1 << 20)
    with open(file, "rb", buffering=0) as source:
        while source.readinto(buffer):
            pass
