"""
Google Vertex AI: the daily bill per project, SKU and place, from the Cloud Billing export in BigQuery.

Vertex AI has no usage API. What every model used and cost is on the bill, which Google exports to BigQuery row by row; each
row names its SKU, and the SKU's text is all that tells the model and whether tokens went in or out. Claude and other
publishers' models are services of their own beside Vertex AI, and Gemini with a key of AI Studio is one more.

A record is one SKU of one project in one place on one UTC day, added up by BigQuery::

    {"billing_account_id": "0123AB-CDEF01-234567", "project_id": "acme-prod", "service_id": "C7E2-9256-1C43",
     "service_description": "Vertex AI", "sku_id": "FDAB-647C-5A22",
     "sku_description": "Gemini 2.5 Flash GA Text Input - Predictions", "location": "europe-west1", "region": "europe-west1",
     "usage_unit": "requests", "usage_amount": 1065040, "cost": 1.2143, "credits": -1.2143,
     "credits_by_type": {"PROMOTION": -1.2143}, "currency": "PLN", "cost_type": "regular", "invoice_month": "202608",
     "exported_at": "2026-08-06T09:14:02+00:00", "row_count": 48}

What the SKU means is not decided here but in dbt, by rules that can be run again over history.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from ai_usage.core import options
from ai_usage.core.contract import Check, Connection, Note, Provider, Record, Scope, Stream
from ai_usage.core.errors import ConfigurationInvalid, UsageError, WrongAccount
from ai_usage.core.slices import ONE_DAY, Window
from ai_usage.providers._google_vertex_ai import (
    FIELDS,
    GRAIN,
    LATE_AFTER_DAYS,
    MEGABYTE,
    SETTLED_AFTER,
    BillingExport,
    Bounds,
    Export,
    Selection,
    export_of,
    note_columns,
    records,
)

VERTEX_AI = "C7E2-9256-1C43"
GEMINI_API = "AEFD-7695-64FA"
SERVICES = (VERTEX_AI, GEMINI_API)
PREFIXES = (
    "Claude ",
    "Codestral ",
    "DeepSeek ",
    "GLM ",
    "Grok ",
    "Jamba ",
    "Kimi ",
    "Llama ",
    "MiniMax ",
    "Mistral ",
    "Qwen ",
)
"""
How the services of publishers' models begin; each model is one, with an id of its own.

Claude's were seen on bills. The others are a guess that costs nothing while there is no such service.
"""
LEFT_OUT = ("74B1-77CF-C302", "E5FE-878F-FECE")
"""Vertex AI Search and Vertex AI Vision: other products, although they count tokens too."""
DEFAULT_GIGABYTES = Decimal(50)
CHECKED_DAYS = 7

_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
_DATASET = re.compile(r"[A-Za-z0-9_]{1,1024}")
_TABLE = re.compile(r"[A-Za-z0-9_-]{1,1024}")
_ACCOUNT = re.compile(r"[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}")
_SERVICE = re.compile(r"[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}")
_LOCATION = re.compile(r"[A-Za-z]+(?:-[a-z]+[0-9]*)*")


@dataclass(frozen=True)
class _Settings:
    """What a connection says about its export, all of it checked."""

    project: str
    dataset: str
    table: str | None
    account_id: str | None
    is_detailed: bool | None
    location: str | None
    start: date | None
    ceiling: int
    selection: Selection


class GoogleVertexAI(Provider):
    """
    Google Vertex AI through the billing export.

    :param today: tells the UTC day; only tests give another.
    :param bounds: how long to wait and how often; only tests give others.
    """

    name = "google_vertex_ai"
    label = "Google Vertex AI"
    connection_type = "google_cloud_platform"
    client_kind = "google"
    streams = (
        Stream(
            name="costs",
            summary="what one SKU used and cost on one day, in one project and place",
            grain=GRAIN,
            fields=FIELDS,
            settle=SETTLED_AFTER,
            # Rows are added for weeks: an invoice closes in the first days of the next month and brings corrections.
            lookback_days=LATE_AFTER_DAYS,
            retention_days=None,
            # A query scans every partition since its first day, so few wide windows scan least.
            max_window_days=92,
        ),
    )
    documentation: ClassVar[Mapping[str, str]] = {
        "Export to BigQuery": "https://cloud.google.com/billing/docs/how-to/export-data-bigquery",
        "Standard usage cost": "https://cloud.google.com/billing/docs/how-to/export-data-bigquery-tables/standard-usage",
        "Detailed usage cost": "https://cloud.google.com/billing/docs/how-to/export-data-bigquery-tables/detailed-usage",
        "Roles of BigQuery": "https://cloud.google.com/bigquery/docs/access-control",
    }
    if_empty = (
        "See in Google Cloud (Billing, Billing export) that the export is on and is that of the billing "
        "account that pays for Vertex AI."
    )
    revoke = (
        "Delete the service account (or its key) in Google Cloud, and its roles on the billing export's data set "
        "and on the job project."
    )
    reads = (
        "of the billing export, the rows of Vertex AI, the Gemini API and publishers' models: amounts, cost and credits per "
        "day, project, SKU and place",
        "the names and ids of projects, services and SKUs in those rows",
        "the names of other services on the bill whose SKUs count tokens, so that none is missed",
        "names, columns and sizes of the tables in the export's dataset",
    )
    never_reads = (
        "prompts, completions and logs",
        "what other services cost",
        "labels and tags, which hold whatever people write into them",
        "invoices, payment methods and people",
    )

    def __init__(
        self, *, today: Callable[[], date] = lambda: datetime.now(UTC).date(), bounds: Bounds | None = None
    ) -> None:
        self._today = today
        self._bounds = bounds
        self._exports: WeakKeyDictionary[Any, list[Export]] = WeakKeyDictionary()
        self._tables: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()

    # ---------------------------------------------------------------- the three questions

    def check(self, connection: Connection) -> Iterator[Check]:
        """Verify the settings, the credential, the export, and that it may be queried. Nothing of it costs money."""
        rest = ["export", "queries", "usage"]
        try:
            settings = _settings(connection)
        except UsageError as error:
            yield Check.failed("settings", error)
            return
        where = f"{settings.project}.{settings.dataset}"
        yield Check("settings", True, f"The export is in {where}; queries run in {connection.client.project}.")
        reader = self._reader(connection, settings)
        try:
            exports = self._found(connection, settings)
            tables = {export: self._table(connection, reader, export) for export in exports}
        except UsageError as error:
            yield Check.failed(rest.pop(0), error)
            yield from (Check(name, None, "Not asked, because the export cannot be seen.") for name in rest)
            return
        yield Check("export", True, "; ".join(_described(export, tables[export]) for export in exports))
        window = Window(self._today() - ONE_DAY * CHECKED_DAYS, self._today())
        for export, table in tables.items():
            name = export.account_id or export.table
            try:
                estimate = reader.estimate(export, table, settings.selection, window)
            except UsageError as error:
                yield Check.failed("queries", error, name)
            else:
                megabytes = f"{estimate / MEGABYTE:,.1f}"
                yield Check("queries", True, f"Allowed: {CHECKED_DAYS} days scan {megabytes} MB.", scope=name)
            yield self._freshness(table, name)

    def _freshness(self, table: Any, name: str) -> Check:
        written = _written(table)
        if table.num_rows == 0 or (written and written < self._today() - SETTLED_AFTER):
            return Check(
                "usage",
                True,
                f"Warning: the export {'is empty' if not table.num_rows else f'was last written on {written}'}.",
                "A new export takes hours, and up to five days for older rows. If it is not new, check in Google Cloud "
                "(Billing, Billing export) whether it is still on.",
                "no_usage",
                name,
            )
        return Check("usage", True, f"Last written on {written}." if written else "It is a view.", scope=name)

    def scopes(self, connection: Connection) -> Sequence[Scope]:
        """Return one scope per billing account that the dataset holds an export of."""
        settings = _settings(connection)
        exports = self._found(connection, settings)
        name = options.text(connection, "account_name") if len(exports) == 1 else None
        return [
            Scope(
                export.account_id or export.table,
                account_id=export.account_id or settings.account_id,
                account_name=name,
                first_day=self._first_day(connection, settings, export),
            )
            for export in exports
        ]

    def _first_day(self, connection: Connection, settings: _Settings, export: Export) -> date | None:
        try:
            return _first_day(self._table(connection, self._reader(connection, settings), export), settings.start)
        except UsageError:
            # Reading it will fail with the same error, and leave the other exports whole.
            return None

    def extract(self, connection: Connection, stream: Stream, scope: Scope, window: Window) -> Iterator[Record]:
        """Yield the window's records by day. Nothing is yielded before the whole answer is in."""
        del stream
        today = self._today()
        if window.first > today:
            return
        settings = _settings(connection)
        export = next(
            (one for one in self._found(connection, settings) if scope.name in (one.account_id, one.table)), None
        )
        if export is None:
            raise ConfigurationInvalid(
                f"The dataset no longer holds an export of {scope.name}.",
                action="Restore it, or correct dataset and table in the connection.",
            ).at(connection.connection_id, scope.name)
        reader = self._reader(connection, settings)
        table = self._table(connection, reader, export)
        note_columns(table, connection)
        known = _known_days(table, settings.start, window, today)
        connection.journal.unanswered |= {day for day in window.days if day <= today and day not in known}
        self._tell_unanswered(connection, table)
        if not known:
            return
        asked = Window(min(known), min(window.last, today))
        rows = reader.rows(export, table, settings.selection, asked)
        try:
            days = records(rows, asked, connection)
            _check_account(days, settings, export)
        except UsageError as error:
            raise error.at(connection.connection_id, scope.name) from None
        yield from (Record(day.usage_date, day.record) for day in days if day.usage_date in known)

    def _tell_unanswered(self, connection: Connection, table: Any) -> None:
        unknown = connection.journal.unanswered
        if not unknown:
            return
        written = _written(table)
        if written and max(unknown) > written:
            connection.journal.notes.append(
                Note(
                    "export_stalled",
                    f"The export was last written on {written}: nothing can be said of the days after it.",
                    "Check in Google Cloud (Billing, Billing export) whether the export is still on.",
                )
            )

    def _reader(self, connection: Connection, settings: _Settings) -> BillingExport:
        return BillingExport(connection, ceiling=settings.ceiling, location=settings.location, bounds=self._bounds)

    def _found(self, connection: Connection, settings: _Settings) -> list[Export]:
        """Return the exports to read, asking once per client: of each billing account one, or the same would count twice."""
        if connection.client not in self._exports:
            self._exports[connection.client] = self._look(connection, settings)
        return self._exports[connection.client]

    def _look(self, connection: Connection, settings: _Settings) -> list[Export]:
        where = f"{settings.project}.{settings.dataset}"
        if settings.table:
            return [export_of(settings.project, settings.dataset, settings.table)]
        found = self._reader(connection, settings).exports(settings.project, settings.dataset)
        wanted = [
            export
            for export in found
            if settings.account_id in (None, export.account_id) and settings.is_detailed in (None, export.is_detailed)
        ]
        # The standard one is smaller and says the same; so it goes first.
        by_account = {
            export.account_id: export for export in sorted(wanted, key=lambda one: one.is_detailed, reverse=True)
        }
        if not by_account:
            kind = {None: "", True: "detailed ", False: "standard "}[settings.is_detailed]
            whose = f" of {settings.account_id}" if settings.account_id else ""
            raise ConfigurationInvalid(
                f"{where} holds no {kind}billing export{whose} ({len(found)} other export tables)."
                if found
                else f"{where} holds no billing export table.",
                action="Switch the standard usage cost export on in Google Cloud (Billing, Billing export), or correct "
                "dataset. A new export takes hours to appear.",
            ).at(connection.connection_id)
        return [by_account[account] for account in sorted(by_account, key=str)]

    def _table(self, connection: Connection, reader: BillingExport, export: Export) -> Any:
        """Return the table's description, asking once per client."""
        tables = self._tables.setdefault(connection.client, {})
        if export.path not in tables:
            try:
                tables[export.path] = reader.describe(export)
            except UsageError as error:
                raise error.at(connection.connection_id) from None
        return tables[export.path]


PROVIDER = GoogleVertexAI()


def _known_days(table: Any, start: date | None, window: Window, today: date) -> frozenset[date]:
    """
    Return the days of a window that the export can speak of.

    Before it began and after it was last written it says nothing, which is not the same as zero. Days that are not
    settled yet are known as far as they have come.
    """
    first, written = _first_day(table, start) or date.min, _written(table) or today
    unsettled = today - SETTLED_AFTER
    return frozenset(day for day in window.days if first <= day <= today and (day >= unsettled or day <= written))


def _first_day(table: Any, start: date | None) -> date | None:
    """
    Return the first day in an export; a multi-region one is filled back to the beginning of the previous month.

    An earlier ``start_date`` is believed: somebody may have filled the table with older rows.
    """
    if table.table_type != "TABLE" or table.created is None:
        return start
    created: date = table.created.astimezone(UTC).date()
    if str(table.location).upper() in ("US", "EU"):
        created = (created.replace(day=1) - ONE_DAY).replace(day=1)
    return min(created, start) if start else created


def _written(table: Any) -> date | None:
    """Return the day on which a table was last written; nothing for a view."""
    if table.table_type != "TABLE" or table.modified is None:
        return None
    written: date = table.modified.astimezone(UTC).date()
    return written


def _described(export: Export, table: Any) -> str:
    kind = "detailed" if export.is_detailed else "standard" if export.account_id else str(table.table_type).lower()
    return f"{export.table} ({kind}, {table.location}, {table.num_rows or 0} rows)"


def _check_account(days: Sequence[Any], settings: _Settings, export: Export) -> None:
    """Refuse another account's rows, where the connection names one."""
    found = {day.record.get("billing_account_id") for day in days} - {None}
    if settings.account_id and found - {settings.account_id}:
        raise WrongAccount(
            f"{export.path} holds rows of billing account {min(found - {settings.account_id})}, the connection says "
            f"{settings.account_id}.",
            action="Correct billing_account_id or table; a reseller with subaccounts leaves billing_account_id out.",
        )


# ---------------------------------------------------------------- settings


def _settings(connection: Connection) -> _Settings:
    """Return what the connection says, or refuse what makes no sense."""

    def wrong(problem: str, action: str) -> ConfigurationInvalid:
        return ConfigurationInvalid(problem, action=action, connection_id=connection.connection_id)

    def checked(name: str, pattern: re.Pattern[str], example: str) -> str | None:
        value = options.text(connection, name)
        if value is not None and not pattern.fullmatch(value):
            raise wrong(f"{name} is not one.", f"Write it as in Google Cloud, for example {example}.")
        return value

    place = options.text(connection, "dataset") or ""
    project, _, dataset = place.rpartition("." if "." in place else ":")
    if not dataset:
        raise wrong(
            "The connection does not say where the billing export is.",
            'Add its dataset to the extra, for example "dataset": "acme-billing.billing_export".',
        )
    project = project or options.text(connection, "export_project") or connection.client.project or ""
    if not _PROJECT.fullmatch(project) or not _DATASET.fullmatch(dataset):
        raise wrong(
            "dataset is not the name of a dataset.",
            'Write it with its project, for example "dataset": "acme-billing.billing_export".',
        )
    kind = (options.text(connection, "export") or "").lower()
    if kind not in ("", "standard", "detailed"):
        raise wrong(f"export is {kind[:20]!r}.", "Say standard or detailed, or leave it out.")
    for name in ("account_name", "project"):
        options.text(connection, name)
    services = _list(connection, "services")
    if any(not _SERVICE.fullmatch(service) for service in services):
        raise wrong("services holds something that is no service id.", 'Write ids, for example ["C7E2-9256-1C43"].')
    return _Settings(
        project=project,
        dataset=dataset,
        table=checked("table", _TABLE, "gcp_billing_export_v1_0123AB_CDEF01_234567"),
        account_id=checked("billing_account_id", _ACCOUNT, "0123AB-CDEF01-234567"),
        is_detailed={"": None, "standard": False, "detailed": True}[kind],
        location=checked("location", _LOCATION, "EU or europe-west1"),
        start=_start(connection),
        ceiling=_ceiling(connection),
        selection=Selection(
            tuple(dict.fromkeys((*SERVICES, *services))),
            tuple(dict.fromkeys((*PREFIXES, *_list(connection, "service_prefixes")))),
            tuple(one for one in LEFT_OUT if one not in services),
        ),
    )


def _start(connection: Connection) -> date | None:
    text = options.text(connection, "start_date")
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise ConfigurationInvalid(
            "start_date is not a day.",
            action="Write it as YYYY-MM-DD.",
            connection_id=connection.connection_id,
        ) from None


def _ceiling(connection: Connection) -> int:
    """Return the most bytes that one query may scan."""
    text = str(connection.options.get("max_gigabytes") or DEFAULT_GIGABYTES)
    try:
        gigabytes = Decimal(text)
    except InvalidOperation:
        gigabytes = Decimal(0)
    if not (gigabytes.is_finite() and 0 < gigabytes <= 1_000_000):
        raise ConfigurationInvalid(
            f"max_gigabytes is {text[:20]!r}.",
            action=f"Write how many gigabytes one query may scan, for example {DEFAULT_GIGABYTES}.",
            connection_id=connection.connection_id,
        )
    return int(gigabytes * 1024 * MEGABYTE)


def _list(connection: Connection, name: str) -> list[str]:
    """Return a setting that is a list of texts, or one text with commas."""
    value = connection.options.get(name) or []
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list) or not all(
        isinstance(one, str) and one.strip() and one.isprintable() for one in value
    ):
        raise ConfigurationInvalid(
            f"{name} is not a list of texts.",
            action=f'Write it as a JSON list, for example "{name}": ["…"], or leave it out.',
            connection_id=connection.connection_id,
        )
    return value
