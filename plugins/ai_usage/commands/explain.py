"""``ai-usage explain``: from a row of the marts to the provider's own records."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import date
from typing import Any, TextIO

from ai_usage.commands import BAD, GOOD
from ai_usage.commands.output import number, on_one_line, print_json, printable
from ai_usage.core.errors import ConfigurationInvalid

SUMMARY = "go from a number in the marts to the provider's own records, or to the reason why there is none"
DESCRIPTION = (
    "For each row of marts.usage_daily: its parts, their meters, the slice behind each part with the reading that\n"
    "brought it and the versions it replaced, and the raw records with what each of them adds. Where there is no row:\n"
    "what is known of every slice of that day, and why."
)
EXAMPLES = """\
  ai-usage explain --date 2026-11-19
  ai-usage explain --date 2026-11-19 --provider openai --model openai/gpt-4o
  ai-usage explain --date 2026-11-19 --account 123456789012 --region us-east-1 --json
"""
BAD_MEANS = "there is no such row"

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--date", required=True, metavar="DAY", help="the UTC day, YYYY-MM-DD")
    parser.add_argument("--provider", metavar="NAME", help="only this provider")
    parser.add_argument(
        "--model", metavar="MODEL", help="only this model, as in usage_daily or as the provider names it"
    )
    parser.add_argument("--account", metavar="ACCOUNT", help="only this account, by id or name")
    parser.add_argument("--region", metavar="REGION", help="only this region")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="the most rows, parts and records (20)")


def run(options: argparse.Namespace, answers: TextIO) -> int:
    """Explain what was asked for."""
    from ai_usage import providers
    from ai_usage.orchestration.warehouse_connection import open_warehouse
    from ai_usage.warehouse.explaining import Question, explain
    from ai_usage.warehouse.roles import TRANSFORMER

    if options.provider:
        providers.load(options.provider)
    if options.limit < 1:
        raise ConfigurationInvalid("--limit is less than 1.", action="Leave it out, or give a number from 1 up.")
    question = Question(
        _day(options.date), options.provider, options.model, options.account, options.region, options.limit
    )
    with open_warehouse().session(TRANSFORMER, application="ai_usage explain") as session:
        if session.execute("select to_regclass('marts.usage_daily')").fetchone() == (None,):
            raise ConfigurationInvalid(
                "There are no marts yet.", action="Run `bin/ai-usage sync`, or wait for the first transform."
            )
        found = explain(session, question)
    if options.json:
        print_json(found, answers)
    else:
        answers.writelines(printable(line) + "\n" for line in _told(found))
    return GOOD if found["rows"] else BAD


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigurationInvalid(
            f"--date is not a day: {text[:40]!r}.", action="Write it as YYYY-MM-DD, for example 2026-08-31."
        ) from None


def _told(found: Row) -> Iterator[str]:
    if found["is_behind"]:
        yield "Something of this day was read that the marts do not show yet: the next transform does."
    for explained in found["rows"]:
        yield from _told_row(explained)
    if found["rows_left_out"]:
        yield f"… and {found['rows_left_out']:,} more rows (--limit)"
    if found["why_nothing"]:
        yield found["why_nothing"]
    gaps = [gap for gap in found["without_rows"] if not found["rows"] or gap["state"] not in _NOTHING_LACKS]
    if gaps:
        yield "What gives no row:"
    for gap in gaps:
        place = " · ".join((gap["connection_id"], gap["scope"], gap["stream"]))
        yield f"  {place}: {gap['state']}. {gap['reason']}"


_NOTHING_LACKS = {"final", "provisional", "confirmed_zero"}


def _told_row(explained: Row) -> Iterator[str]:
    row = explained["row"]
    names = (row["usage_date"], row["provider"], row["account_name"] or row["account_id"], row["region"], row["model"])
    yield " · ".join(map(str, names))
    yield f"  coverage: {row['coverage']}"
    for name, measure in explained["measures"].items():
        agrees = "" if measure["value"] == measure["sum_of_parts"] else " (its parts do not add up to it: rebuild)"
        yield f"  {name}: {number(measure['value'])}{agrees}"
    for part in explained["parts"]:
        yield from _told_part(part)
    if explained["parts_left_out"]:
        yield f"  … and {explained['parts_left_out']:,} more parts (--limit)"
    yield ""


def _told_part(part: Row) -> Iterator[str]:
    named = part["part"]
    place = " · ".join((named["connection_id"], named["scope"], named["stream"]))
    shown = ("raw_model_id", "endpoint", "project_id", "credential_id", "service_tier", "billed_currency")
    yield f"  from {place}"
    yield "    " + ", ".join(f"{name} {named[name]}" for name in shown if named[name] is not None)
    for name, measure in part["measures"].items():
        meters = measure["meters"]
        made_of = "" if list(meters) == [name] else " = " + " + ".join(f"{m} {number(q)}" for m, q in meters.items())
        yield f"    {name} {number(measure['value'])}{made_of}"
    yield from _told_slice(part["slice"])
    yield f"    records: {part['records_of_part']:,} of the {part['records_of_slice']:,} of the slice"
    for record in part["records"]:
        adds = ", ".join(f"{meter} {number(quantity)}" for meter, quantity in record["adds"].items())
        yield f"      load {record['load_id']}: {on_one_line(record['record'])}"
        yield f"        adds {adds}"
    if len(part["records"]) < part["records_of_part"]:
        yield f"      … and {part['records_of_part'] - len(part['records']):,} more (--limit)"
    if apart := [meter for meter, agrees in part["adds_up"].items() if not agrees]:
        yield (
            f"    Taken one by one the records do not add up to {', '.join(apart)}: the provider's rules weigh records of"
            " a day together, as its page in docs/providers tells."
        )


def _told_slice(known: Row) -> Iterator[str]:
    if known["state"] is None:
        yield "    slice: the ledger no longer knows it; the next transform takes it out"
        return
    yield (
        f"    slice: {known['state']}, load {known['shown_load_id']}, asked at {known['extracted_at']}"
        f" by {known['run_id']}"
    )
    yield (
        f"      reading {known['extraction_id']}: {known['window_first']} to {known['window_last']},"
        f" {number(known['calls'])} calls, {number(known['records_read'])} records read"
    )
    if known["load_id"] != known["shown_load_id"]:
        yield f"      load {known['load_id']} is newer and waits for the next transform"
    if known["error_kind"]:
        yield f"      reading it again failed {known['failed_attempts']} times ({known['error_kind']}); this stands"
    for old in known["earlier_versions"]:
        kept = f"its records were pruned at {old['pruned_at']}" if old["pruned_at"] else "its records are kept"
        yield f"      replaced: load {old['load_id']}, asked at {old['extracted_at']}, until {old['superseded_at']}; {kept}"
    for one in known["restatements"]:
        yield (
            f"      restated at {one.get('restated_at')}: {one.get('meter')} {number(one.get('old_value'))}"
            f" → {number(one.get('new_value'))}"
        )
