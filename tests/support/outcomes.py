"""The table scenario → outcome at the end of a test run."""

from __future__ import annotations

from typing import Any

WIDTH = 88


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print one line for each scenario that was played, on whatever worker."""
    rows = []
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) != "call":
                continue
            told = dict(report.user_properties)
            if "scenario" in told:
                rows.append((told["scenario"], told["outcome"] if report.passed else "FAILED"))
    if not rows:
        return
    terminalreporter.section(f"{len(rows)} scenarios")
    for scenario, outcome in sorted(rows, key=lambda row: _in_order(row[0])):
        terminalreporter.write_line(f"{scenario:<{WIDTH}}  {outcome}")


def _in_order(scenario: str) -> tuple[str, int, str]:
    number = scenario.split(maxsplit=1)[0]
    return number[0], int("".join(letter for letter in number[1:] if letter.isdigit()) or 0), scenario
