"""What a process costs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.processes import Measured, measured_command, output_of, peak_mb

MEBIBYTE = 1024**2


def test_the_peak_of_a_command_is_its_own_and_not_that_of_who_started_it() -> None:
    ballast = bytearray(os.urandom(1) * 200 * MEBIBYTE)

    # It lives long enough to be looked at.
    measured = measured_command([sys.executable, "-c", "import time; time.sleep(0.3)"], os.environ)

    assert peak_mb() > len(ballast) / MEBIBYTE
    assert 0 < measured.peak_mb < 100
    assert measured.seconds >= 0.3 > measured.cpu_seconds


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        measured_command([sys.executable, "-c", "raise SystemExit(3)"], os.environ)


def test_the_median_is_of_each_figure_and_the_peak_the_highest() -> None:
    rounds = [Measured(1.0, 0.9, 50.0), Measured(5.0, 0.7, 60.0), Measured(2.0, 0.8, 40.0)]

    assert Measured.median(rounds) == Measured(2.0, 0.8, 60.0)


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(SystemExit, match="no such table"):
        output_of([sys.executable, "-c", "raise SystemExit('no such table')"], os.environ)
