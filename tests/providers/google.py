"""Billing accounts of the sandbox, as connections a provider can use without Airflow, through Google's own client."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from google.oauth2 import service_account

from ai_usage.core.contract import Connection, Journal, Memory, Record
from ai_usage.core.slices import Window
from ai_usage.orchestration.client_kinds.google import bigquery_client
from ai_usage.providers._google_vertex_ai import Bounds
from ai_usage.providers.google_vertex_ai import GoogleVertexAI
from sandbox.service import Sandbox
from sandbox.simulators.google_vertex_ai import READER, keyfile
from sandbox.truth.google_vertex_ai import COMPANY, Account, GoogleVertexAITruth, Line, Values, money
from tests.providers.aws import TODAY

DAY = timedelta(days=1)
QUICK = Bounds(answer=5, patience=1.5, pause=0.05, deadline=10)


def days_ago(days: int) -> date:
    """Return a day before the sandbox's today."""
    return TODAY - days * DAY


def provider(bounds: Bounds = QUICK) -> GoogleVertexAI:
    """Return the provider on the sandbox's day, that waits for next to nothing."""
    return GoogleVertexAI(today=lambda: TODAY, bounds=bounds)


def connection(
    sandbox: Sandbox, account: Account = COMPANY, *, role: str = READER, job_project: str | None = None, **options: Any
) -> Connection:
    """Return a connection to an account of the sandbox."""
    url = f"{sandbox.url}/google_vertex_ai"
    journal = Journal()
    credentials = service_account.Credentials.from_service_account_info(
        keyfile(account, url, role), scopes=["https://www.googleapis.com/auth/cloud-platform"]
    )
    client = bigquery_client(credentials, job_project or account.job_project, endpoint=url, journal=journal)
    options = {"dataset": f"{account.project}.{account.dataset}"} | options
    return Connection("google_test", options, client, journal=journal, memory=Memory())


def extract(one: Connection, first: date, last: date = TODAY, google: GoogleVertexAI | None = None) -> list[Record]:
    """Return the records of a window."""
    google = google or provider()
    (scope,) = google.scopes(one)
    return list(google.extract(one, google.streams[0], scope, Window(first, last)))


def truth(sandbox: Sandbox) -> GoogleVertexAITruth:
    """Return what the sandbox knows."""
    known = sandbox.truth.of("google_vertex_ai")
    assert isinstance(known, GoogleVertexAITruth)
    return known


def numbers(records: list[Record]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Return place → amount, cost, credits, credits by type; fails if a place is there twice."""
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    names: tuple[str, ...]
    for day, record in records:
        names = ("billing_account_id", "project_id", "project_name", "service_id", "sku_id", "sku_description")
        names += ("location", "region", "currency", "cost_type")
        key = (day, *(record.get(name) for name in names))
        amounts = [record["usage_amount"], record["cost"], record["credits"]]
        invoices = found.setdefault(key, (0, 0, 0, {}))
        # A correction stands on a later invoice, as a record of its own.
        by_type = dict(invoices[3])
        for kind, amount in record.get("credits_by_type", {}).items():
            by_type[kind] = by_type.get(kind, 0) + amount
        by_type = {kind: amount for kind, amount in by_type.items() if amount}
        found[key] = (*(a + b for a, b in zip(invoices[:3], amounts, strict=True)), by_type)
    return found


def expected(sandbox: Sandbox, account: Account, first: date, last: date = TODAY) -> dict[tuple[Any, ...], Any]:
    """Return the same from the truth."""
    return {
        _place(account, line, day): (
            values["amount"],
            money(values["cost"]),
            -money(values["credit"]),
            _by_type(line, values),
        )
        for day in Window(first, last).days
        for line, values in truth(sandbox).billed(account, day)
    }


def _by_type(line: Line, values: Values) -> dict[str, Any]:
    return {line.credit: -money(values["credit"])} if line.credit and values["credit"] else {}


def _place(account: Account, line: Line, day: date) -> tuple[Any, ...]:
    return (
        *(day, account.account_id, line.project.id, line.project.name, line.service.id, line.sku, line.text),
        *(line.location, line.region, account.currency, line.cost_type),
    )
