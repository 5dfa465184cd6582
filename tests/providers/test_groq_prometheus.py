"""
Groq's reader against a real Prometheus server: the same code, a query engine that nobody here wrote.

VictoriaMetrics, which Groq runs, takes for the value of an instant the newest one of the five minutes before it, the
beginning aside. Prometheus' own look-back includes the beginning, so the server is started with a millisecond less.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from ai_usage.core.contract import Connection, Record
from ai_usage.core.errors import ConfigurationInvalid
from sandbox.service import Sandbox
from sandbox.simulators.groq import METRICS, SERIES, counts
from sandbox.truth.groq import COMPANY, TOKENS_IN, TOKENS_OUT
from tests.providers.aws import TODAY
from tests.providers.test_groq import at, connection, counted, days_ago, expected, extract, found, instants, truth

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
pytestmark = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL),
    reason="Prometheus is not installed here (Debian and Ubuntu: apt-get install prometheus)",
)

LIKE_VICTORIAMETRICS = "4m59s999ms"
HISTORY = 40
SIX_HOURS = 6 * 3600
Sample = tuple[str, Mapping[str, str], str, int]


@contextmanager
def prometheus(folder: Path, look_back: str = LIKE_VICTORIAMETRICS) -> Iterator[str]:
    """Run a server over a folder of blocks; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "prometheus.yml").write_text("global: {}\n")
    command = [
        PROMETHEUS or "",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--web.route-prefix={METRICS}",
        f"--query.lookback-delta={look_back}",
        "--log.level=error",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            _wait_until_ready(server, f"http://127.0.0.1:{port}{METRICS}", folder / "log")
            yield f"http://127.0.0.1:{port}{METRICS}"
        finally:
            server.terminate()


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    give_up_at = time.monotonic() + 60
    while time.monotonic() < give_up_at and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"Prometheus did not start: {log.read_text()[-2000:]}")


def back_fill(folder: Path, kind: str, samples: Iterable[Sample]) -> None:
    """Make blocks of samples that are ordered by name."""
    # promtool makes a block of every two hours, and reads the whole of its input again for each of them.
    parts: dict[int, list[Sample]] = {}
    for sample in samples:
        parts.setdefault(sample[3] // SIX_HOURS, []).append(sample)
    for part in parts.values():
        lines, last = [], ""
        for name, labels, value, instant in part:
            if name != last:
                lines.append(f"# TYPE {name.removesuffix('_total')} {kind}\n")
                last = name
            text = ",".join(f'{label}="{_escaped(known)}"' for label, known in labels.items())
            lines.append(f"{name}{{{text}}} {value} {instant}\n")
        (folder / "samples.om").write_text("".join([*lines, "# EOF\n"]), encoding="utf-8")
        run(PROMTOOL, "tsdb", "create-blocks-from", "--quiet", "openmetrics", folder / "samples.om", folder / "data")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def run(*command: Any) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def of_the_sandbox(sandbox: Sandbox, first: date, last: date) -> Iterator[Sample]:
    """Yield the company's series as rates, from the truth's totals."""
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    for operation, name in sorted(SERIES.items()):
        for day in days:
            for use, values in truth(sandbox).used(COMPANY, day):
                named = {"model": use.model or "", "project_id": use.project or ""}
                labels = {label: value for label, value in named.items() if value}
                begins, ends = (hour * 12 for hour in use.hours)
                for meter, total in values.items():
                    if (operation == meter) or (operation == "requests" and meter.isdigit()):
                        status = {"status_code": meter} if meter.isdigit() else {}
                        spread = counts(use, meter, day, total)
                        for n in range(begins, ends):
                            yield name, labels | status, repr(spread[n] / 300), instants(day)[n]


@pytest.fixture(scope="module")
def blocks(running_sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks of the company's last days, today aside."""
    folder = tmp_path_factory.mktemp("prometheus")
    back_fill(folder, "gauge", of_the_sandbox(running_sandbox, days_ago(HISTORY), days_ago(1)))
    return folder


@pytest.fixture(scope="module")
def server(blocks: Path) -> Iterator[str]:
    with prometheus(blocks) as url:
        yield url


def company(url: str) -> Connection:
    return connection(None, COMPANY, url=url)


def test_every_count_out_of_a_real_prometheus_equals_the_truth(sandbox: Sandbox, server: str) -> None:
    one = company(server)
    records = extract(one, days_ago(30), days_ago(1))
    assert found(records) == expected(sandbox, COMPANY, days_ago(30), days_ago(1))
    assert one.journal.calls == 3
    assert one.journal.notes == []


def test_a_real_prometheus_and_the_sandbox_give_the_same_records(sandbox: Sandbox, server: str) -> None:
    first, last = days_ago(9), days_ago(1)
    assert extract(company(server), first, last) == extract(connection(sandbox), first, last)


def test_the_checks_pass_there(server: str) -> None:
    found_checks = list(at(TODAY - timedelta(days=1)).check(company(server)))
    assert [check.passed for check in found_checks] == [True, True, True]
    assert found_checks[2].message == "There are tokens and requests."


def test_more_than_eleven_thousand_values_a_series_are_refused_there_and_asked_for_in_halves(
    sandbox: Sandbox, server: str
) -> None:
    one = company(server)
    records = extract(one, days_ago(HISTORY - 1), days_ago(1))
    assert found(records) == expected(sandbox, COMPANY, days_ago(HISTORY - 1), days_ago(1))
    assert one.journal.calls == 3 * 3


def test_days_before_the_first_value_are_left_open_and_quiet_ones_are_believed(sandbox: Sandbox, server: str) -> None:
    real = expected(sandbox, COMPANY, days_ago(HISTORY), days_ago(1))
    oldest = min(day for day, _, _ in real)
    one = company(server)
    extract(one, oldest - timedelta(days=9), oldest + timedelta(days=9))
    assert one.journal.unanswered == {oldest - timedelta(days=n) for n in range(1, 10)}
    quiet = [day for n in range(30, 8, -1) if (day := days_ago(n)) not in {day for day, _, _ in real}]
    assert quiet, "the sandbox has days without usage"
    again = company(server)
    assert extract(again, quiet[0], quiet[0]) == []
    assert again.journal.unanswered == set()


def test_a_wrong_path_there_is_a_wrong_address_and_no_missing_plan(server: str) -> None:
    for url in (server + "/elsewhere", server.removesuffix(METRICS)):
        with pytest.raises(ConfigurationInvalid, match="no metrics API"):
            extract(company(url), days_ago(3), days_ago(1))


def test_with_prometheus_own_look_back_a_series_that_ends_counts_its_last_five_minutes_twice(
    sandbox: Sandbox, blocks: Path, tmp_path: Path
) -> None:
    # The bound that the documentation states, and why the flag is named there.
    shutil.copytree(blocks / "data", tmp_path / "data", ignore=shutil.ignore_patterns("lock", "wal", "queries.active"))
    use = next(use for use in COMPANY.uses if use.hours == (9, 17))
    day = next(day for n in range(1, 9) if truth(sandbox).values(COMPANY, use, day := days_ago(n)))
    with prometheus(tmp_path, "5m") as url:
        got = found(extract(company(url), day, day))
    values = expected(sandbox, COMPANY, day, day)[day, use.raw_model, use.project or ""]
    for meter, total in values.items():
        twice = counts(use, meter, day, total)[17 * 12 - 1]
        assert got[day, use.raw_model, use.project or ""][meter] == total + twice


# ---------------------------------------------------------------- from counters to rates to counts

COUNTED_DAY = days_ago(2)
MINUTES = range(instants(COUNTED_DAY)[0] - 3900, instants(COUNTED_DAY)[287] + 3600, 60)
STEPS = {"a": 7, "b": 11}
"""Two processes that count, and how much they do at once."""
RESTART = 700
"""The minute in which the second of them starts again from nothing."""
RULES = {
    name: f"sum by (model, project_id{', status_code' if 'status' in name else ''}) (rate({operation}_total[5m]))"
    for operation, name in SERIES.items()
}


def increase(name: str, pod: str, n: int) -> int:
    """Return what a process counts in a minute."""
    return 0 if (pod, n) == ("b", RESTART) else 1 + ("tokens" in name) * STEPS[pod] * (n % 13)


@pytest.fixture(scope="module")
def counters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks of raw counters, looked at once a minute."""
    folder = tmp_path_factory.mktemp("counters")

    def samples() -> Iterator[Sample]:
        for name in ("requests_total", "tokens_in_total", "tokens_out_total"):
            for pod in STEPS:
                value = 0
                for n, instant in enumerate(MINUTES):
                    value = 0 if (pod, n) == ("b", RESTART) else value + increase(name, pod, n)
                    labels = {"model": "m", "project_id": "p", "status_code": "200", "pod": pod}
                    yield name, labels, str(value), instant

    back_fill(folder, "counter", samples())
    return folder


def really_counted() -> dict[str, int]:
    """Return what the processes counted on the day."""
    day = [
        n for n, instant in enumerate(MINUTES) if instants(COUNTED_DAY)[0] - 300 < instant <= instants(COUNTED_DAY)[287]
    ]
    assert len(day) == 1440
    return {
        meter: sum(increase(name, pod, n) for n in day for pod in STEPS)
        for meter, name in ((TOKENS_IN, TOKENS_IN), (TOKENS_OUT, TOKENS_OUT), ("200", "requests"))
    }


def test_rates_that_prometheus_makes_of_counters_come_back_as_what_was_counted(counters: Path, tmp_path: Path) -> None:
    asked = {"start": MINUTES[10], "end": MINUTES[-1], "step": 60}
    rates: list[Sample] = []
    with prometheus(counters) as url:
        for name, rule in sorted(RULES.items()):
            query = urllib.parse.urlencode(asked | {"query": rule})
            with urllib.request.urlopen(f"{url}/api/v1/query_range?{query}", timeout=30) as answer:
                (series,) = json.load(answer)["data"]["result"]
            rates += [(name, series["metric"], value, instant) for instant, value in series["values"]]
    back_fill(tmp_path, "gauge", rates)
    with prometheus(tmp_path) as url:
        one = company(url)
        records = extract(one, COUNTED_DAY, COUNTED_DAY)
    assert [Record(day, counted(record)) for day, record in records] == [Record(COUNTED_DAY, really_counted())]
    assert records[0].record["gaps"] == 0
    assert one.journal.notes == []


def test_a_recording_rule_out_of_step_stays_within_two_percent_and_is_told(counters: Path, tmp_path: Path) -> None:
    # Prometheus evaluates a rule at seconds of its own choice, and its rate() then guesses the ends of the five minutes.
    rules = [f"  - record: {name}\n    expr: {rule}\n" for name, rule in RULES.items()]
    (tmp_path / "rules.yml").write_text("".join(["groups:\n- name: groq\n  interval: 60s\n  rules:\n", *rules]))
    with prometheus(counters) as url:
        of = ("--url", url, "--start", MINUTES[10], "--end", MINUTES[-1], "--eval-interval", "60s")
        run(
            PROMTOOL,
            "tsdb",
            "create-blocks-from",
            "rules",
            *of,
            "--output-dir",
            tmp_path / "data",
            tmp_path / "rules.yml",
        )
    with prometheus(tmp_path) as url:
        one = company(url)
        ((_, record),) = extract(one, COUNTED_DAY, COUNTED_DAY)
    for meter, real in really_counted().items():
        assert abs(counted(record)[meter] - real) <= 0.02 * real
    assert {note.kind for note in one.journal.notes} == {"counts_rounded"}
