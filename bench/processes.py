"""What a process costs: the same measure in every environment, so nothing but the standard library."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Measured:
    """
    What one load took.

    :param seconds: from the first record to committed rows.
    :param cpu_seconds: of the client, in the same time; the server's own work is not in it.
    :param peak_mb: of the client's process.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float

    @classmethod
    def median(cls, rounds: Sequence[Measured]) -> Measured:
        """Return the median of the times, and the highest peak."""
        return cls(
            statistics.median(one.seconds for one in rounds),
            statistics.median(one.cpu_seconds for one in rounds),
            max(one.peak_mb for one in rounds),
        )


def peak_mb(pid: int | str = "self") -> float:
    """
    Return the most memory that a process has held so far, in MB; 0 if it has ended.

    ``getrusage`` would count in what the parent held when it started the process.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    lines = (line.split() for line in status.splitlines())
    return next((int(line[1]) / 1024 for line in lines if line[0] == "VmHWM:"), 0.0)


def measured_command(command: Sequence[str], environment: Mapping[str, str]) -> Measured:
    """Run a program that cannot measure itself."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=dict(environment))
    peak = 0.0
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        peak = max(peak, peak_mb(process.pid))
        time.sleep(0.01)
    seconds = time.perf_counter() - begun
    _, status, used = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return Measured(seconds, used.ru_utime + used.ru_stime, peak)


def output_of(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return what a program printed; end with the last of what it complained about if it failed."""
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{done.stderr[-2000:]}")
    return done.stdout
