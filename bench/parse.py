"""
How long each DAG file takes to parse, in a fresh process as the DAG processor's, beside a DAG that does nothing.

The DAG that does nothing, parsed by the same processes in turns, is what Airflow itself costs.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.airflow_home import surroundings
from bench.claims import Claim, table
from bench.processes import ROOT, output_of

ROUNDS = 3
GOAL_SECONDS = 1.0
NOTHING = """\
from airflow.sdk import dag, task


@dag(schedule=None)
def nothing():
    @task
    def rest():
        pass

    rest()


nothing()
"""


@dataclass(frozen=True)
class Parsed:
    """
    One file, parsed once.

    :param airflow_seconds: the import of Airflow, which the DAG processor has behind it.
    :param file_seconds: what follows: the imports of the file itself, its DAG, and the DAG's serialization.
    :param airflow_mb: peak memory after the import of Airflow.
    :param peak_mb: peak memory at the end.
    """

    airflow_seconds: float
    file_seconds: float
    airflow_mb: float
    peak_mb: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.airflow_seconds + self.file_seconds

    @classmethod
    def median(cls, rounds: list[Parsed]) -> Parsed:
        """Return the median of each figure."""
        return cls(**{name: statistics.median(getattr(one, name) for one in rounds) for name in vars(rounds[0])})


def run() -> list[Claim]:
    """Print the times, and claim about the slowest file."""
    with tempfile.TemporaryDirectory(prefix="ai_usage_bench_") as folder:
        nothing = Path(folder) / "nothing.py"
        nothing.write_text(NOTHING)
        files = [nothing, *sorted((ROOT / "dags").glob("*.py"))]
        environment = surroundings(Path(folder))
        rounds = [{file: _parse(file, environment) for file in files} for _ in range(ROUNDS)]
    medians = {file: Parsed.median([one[file] for one in rounds]) for file in files}
    return _report(medians.pop(nothing), {file.name: parsed for file, parsed in medians.items()})


def _parse(file: Path, environment: dict[str, str]) -> Parsed:
    told = output_of([sys.executable, "-m", "bench.parse_process", str(file)], environment)
    return Parsed(**json.loads(told.splitlines()[-1]))


def _report(nothing: Parsed, files: dict[str, Parsed]) -> list[Claim]:
    print(f"Parsing a DAG file in a fresh process: medians of {ROUNDS} rounds")
    header = ("file", "import of Airflow, s", "file, s", "together, s", "ratio to nothing", "peak memory, MB")
    rows = [_cells(name, parsed, nothing) for name, parsed in {"a DAG that does nothing": nothing, **files}.items()]
    print(table(header, rows, right=range(1, len(header))))
    name, slowest = max(files.items(), key=lambda item: item[1].file_seconds)
    ratio = max(parsed.seconds for parsed in files.values()) / nothing.seconds
    return [
        Claim(
            f"parsing, the slowest DAG file ({name}), imports included once, Airflow's own left out",
            f"{slowest.file_seconds:.2f} s",
            f"< {GOAL_SECONDS:.0f} s",
            slowest.file_seconds < GOAL_SECONDS,
        ),
        Claim("parsing, a whole process against one whose DAG does nothing", f"{ratio:.2f} x", "", None),
    ]


def _cells(name: str, parsed: Parsed, nothing: Parsed) -> tuple[str, ...]:
    return (
        name,
        f"{parsed.airflow_seconds:.2f}",
        f"{parsed.file_seconds:.2f}",
        f"{parsed.seconds:.2f}",
        f"{parsed.seconds / nothing.seconds:.2f}",
        f"{parsed.peak_mb:.0f}",
    )
