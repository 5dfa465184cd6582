"""
Reading a billing export in BigQuery: every question counted, estimated before it is asked, answered whole or not at all.

Facts about the export are in the pages that :mod:`ai_usage.providers.google_vertex_ai` links. Google's libraries are
imported when they are first used, because parsing a DAG must not pay for them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from ai_usage.core.contract import Connection, Note
from ai_usage.core.drift import Drift
from ai_usage.core.errors import ConfigurationInvalid, ResponseInvalid
from ai_usage.core.http import call_within
from ai_usage.core.slices import ONE_DAY, Window, midnight
from ai_usage.providers._bigquery_errors import named

log = logging.getLogger(__name__)
T = TypeVar("T")

SETTLED_AFTER = timedelta(days=3)
"""Later than this, rows are news: Google usually needs hours, and sometimes more than a day."""
LATE_AFTER_DAYS = 40
"""Rows that come later than this find nobody who reads their day again."""
MEGABYTE = 1024 * 1024
LEAST_CAP = 20 * MEGABYTE
"""BigQuery bills at least ten megabytes per table, and rounds up."""
HEADROOM = 1.2
"""How much more than the estimate a query may scan: a cap equal to the estimate has failed in practice."""
DIGITS = 12
"""Decimals of money and amounts that are kept of a floating-point number; what is beyond them is its noise."""

CREDIT_TYPES = (
    "COMMITTED_USAGE_DISCOUNT",
    "COMMITTED_USAGE_DISCOUNT_DOLLAR_BASE",
    "DISCOUNT",
    "FEE_UTILIZATION_OFFSET",
    "FREE_TIER",
    "PROMOTION",
    "RESELLER_MARGIN",
    "SUBSCRIPTION_BENEFIT",
    "SUSTAINED_USAGE_DISCOUNT",
)

_NUMERIC = "ROUND(CAST({} AS BIGNUMERIC), " + str(DIGITS) + ")"
_DIMENSIONS: Mapping[str, str] = {
    "billing_account_id": "billing_account_id",
    "project_id": "project.id",
    "service_id": "service.id",
    "sku_id": "sku.id",
    "location": "location.location",
    "region": "location.region",
    "usage_unit": "usage.unit",
    "pricing_unit": "usage.pricing_unit",
    "currency": "currency",
    "cost_type": "cost_type",
    "invoice_month": "invoice.month",
    "transaction_type": "transaction_type",
    "adjustment_type": "adjustment_info.type",
    "resource_name": "resource.name",
}
"""Field of a record → the export's column: what tells records of one day apart."""
_NAMES: Mapping[str, str] = {
    "project_name": "project.name",
    "service_description": "service.description",
    "sku_description": "sku.description",
}
"""What may change within a day without being another thing."""
_SUMS: Mapping[str, str] = {
    "usage_amount": "usage.amount",
    "usage_amount_in_pricing_units": "usage.amount_in_pricing_units",
    "cost": "cost",
    "cost_at_list": "cost_at_list",
}
_OPTIONAL = frozenset({"transaction_type", "adjustment_info", "resource", "cost_at_list"})
"""Columns that older exports, or the standard one, do not have."""
_UNREAD = frozenset(
    {
        "consumption_model",
        "cost_at_effective_price_default",
        "cost_at_list_consumption_model",
        "currency_conversion_rate",
        "labels",
        "price",
        "seller_name",
        "subscription",
        "system_labels",
        "tags",
        "usage_end_time",
    }
)
"""Known columns that are not read."""
_NEEDED = (
    frozenset(
        {path.partition(".")[0] for path in (*_DIMENSIONS.values(), *_NAMES.values(), *_SUMS.values())}
        | {"usage_start_time", "export_time", "credits"}
    )
    - _OPTIONAL
)
_REQUIRED = ("service_id", "sku_id", "sku_description", "currency", "cost")
GRAIN = tuple(_DIMENSIONS)
FIELDS = frozenset({*_DIMENSIONS, *_NAMES, *_SUMS, "credits", "credits_by_type", "exported_at", "row_count"})

_TABLE = re.compile(
    r"gcp_billing_export_(?P<kind>resource_)?v1_(?P<account>[0-9A-F]{6}_[0-9A-F]{6}_[0-9A-F]{6})", re.IGNORECASE
)


@dataclass(frozen=True)
class Export:
    """
    One export table.

    :param account_id: the billing account in the table's name; ``None`` for a table or view that is named otherwise.
    """

    project: str
    dataset: str
    table: str
    account_id: str | None
    is_detailed: bool = False

    @property
    def path(self) -> str:
        """The table as the client names it."""
        return f"{self.project}.{self.dataset}.{self.table}"


@dataclass(frozen=True)
class Selection:
    """What counts as AI: ids of services, and what the names of others begin with."""

    services: tuple[str, ...]
    prefixes: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Bounds:
    """How long to wait and how often; only tests give others. Times are in seconds."""

    answer: float = 60.0
    patience: float = 180.0
    pause: float = 1.0
    deadline: float = 900.0
    page_rows: int = 20_000


def export_of(project: str, dataset: str, table: str) -> Export:
    """Return the export behind a table's name, with the account that the name holds."""
    match = _TABLE.fullmatch(table)
    account = match["account"].upper().replace("_", "-") if match else None
    return Export(project, dataset, table, account, bool(match and match["kind"]))


class BillingExport:
    """
    Every question to BigQuery on behalf of one connection.

    :param connection: with a ``google.cloud.bigquery.Client`` of the job project as its client.
    :param ceiling: the most bytes that one query may scan.
    :param location: where the dataset lies; asked of the table if not given.
    """

    def __init__(
        self, connection: Connection, *, ceiling: int, location: str | None = None, bounds: Bounds | None = None
    ) -> None:
        self._connection = connection
        self._client = connection.client
        self._ceiling = ceiling
        self._location = location
        self._bounds = bounds or Bounds()

    # ---------------------------------------------------------------- what there is

    def exports(self, project: str, dataset: str) -> list[Export]:
        """Return the export tables of a dataset. Free of charge."""

        def ask(retry: Any) -> list[Export]:
            found = self._client.list_tables(
                f"{project}.{dataset}", retry=retry, timeout=self._bounds.answer, page_size=1000
            )
            return [export_of(project, dataset, str(table.table_id)) for table in found]

        return [export for export in self._ask(f"dataset {project}.{dataset}", ask) if export.account_id]

    def describe(self, export: Export) -> Any:
        """Return the table as ``tables.get`` shows it, once it has every column that is needed. Free of charge."""

        def ask(retry: Any) -> Any:
            return self._client.get_table(export.path, retry=retry, timeout=self._bounds.answer)

        table = self._ask(f"table {export.path}", ask)
        missing = _NEEDED - {field.name for field in table.schema}
        if missing:
            raise ConfigurationInvalid(
                f"{export.path} is no billing export that can be read: it lacks {', '.join(sorted(missing))}.",
                action="Name the standard or the detailed usage cost export as table, not pricing, FOCUS or a "
                "reseller's export.",
            )
        return table

    # ---------------------------------------------------------------- what was billed

    def estimate(self, export: Export, table: Any, selection: Selection, window: Window) -> int:
        """
        Return the bytes that reading a window would scan. Free of charge, and a proof that it is allowed.

        :raises ConfigurationInvalid: if that is more than the connection permits.
        """
        from google.cloud import bigquery  # noqa: PLC0415 - see the module

        sql, parameters = question(export, table, selection, window)
        config = bigquery.QueryJobConfig(
            dry_run=True, use_query_cache=False, use_legacy_sql=False, query_parameters=_typed(parameters)
        )

        def ask(retry: Any) -> int:
            job = self._client.query(
                sql,
                job_config=config,
                location=self._location or table.location,
                retry=retry,
                timeout=self._bounds.answer,
                job_retry=None,
            )
            return int(job.total_bytes_processed)

        estimate = self._ask(f"table {export.path}", ask)
        if estimate > self._ceiling:
            raise ConfigurationInvalid(
                f"Reading {window} would scan about {_shown(estimate)}, more than the {_shown(self._ceiling)} that the "
                "connection permits; nothing was asked.",
                action="Raise max_gigabytes in the connection, or ask for fewer days.",
            )
        return int(estimate)

    def rows(self, export: Export, table: Any, selection: Selection, window: Window) -> list[Mapping[str, Any]]:
        """Return every row of the answer for a window, after an estimate and within a cap."""
        from google.cloud import bigquery  # noqa: PLC0415 - see the module

        estimate = self.estimate(export, table, selection, window)
        cap = min(max(int(estimate * HEADROOM), LEAST_CAP), max(self._ceiling, LEAST_CAP))
        log.info(
            "%s: reading %s of %s scans about %s (dry run); the query is capped at %s",
            self._connection.connection_id,
            window,
            export.path,
            _shown(estimate),
            _shown(cap),
        )
        sql, parameters = question(export, table, selection, window)
        config = bigquery.QueryJobConfig(
            use_legacy_sql=False,
            maximum_bytes_billed=cap,
            query_parameters=_typed(parameters),
            labels={"tool": "ai-usage"},
        )

        def ask(retry: Any) -> list[Mapping[str, Any]]:
            answer = self._client.query_and_wait(
                sql,
                job_config=config,
                location=self._location or table.location,
                retry=retry,
                api_timeout=self._bounds.answer,
                wait_timeout=self._bounds.deadline,
                job_retry=None,
                page_size=self._bounds.page_rows,
            )
            found = list(_whole(answer))
            log.info("%s: the query scanned %s", self._connection.connection_id, _shown(answer.total_bytes_processed))
            return found

        return self._ask(f"table {export.path}", ask)

    # ---------------------------------------------------------------- asking

    def _ask(self, what: str, ask: Callable[[Any], T]) -> T:
        """Return the answer to one question; the client repeats what may pass by itself, for a bounded time."""
        from google.cloud import bigquery  # noqa: PLC0415 - see the module

        bounds = self._bounds
        retry = bigquery.DEFAULT_RETRY.with_timeout(bounds.patience).with_delay(
            initial=bounds.pause, maximum=max(20.0, bounds.pause), multiplier=2
        )
        try:
            return call_within(bounds.deadline, ask, retry)
        except Exception as error:  # noqa: BLE001 - the client fails in many ways on answers it cannot read
            caught = error
        # Named and raised out here, an error has no trace of Google's own texts.
        raise named(caught, what, self._client.project).at(self._connection.connection_id)


def _whole(answer: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every row; raise if there are fewer or more than BigQuery says, or its pages do not end."""
    expected, count = answer.total_rows, 0
    if expected is None:
        raise _invalid("it does not say how many rows it has")
    empty_pages = 0
    for page in answer.pages:
        before = count
        for row in page:
            count += 1
            yield dict(row.items())
        empty_pages = empty_pages + 1 if count == before else 0
        if count > expected or empty_pages > 3:
            break
    if count != expected:
        raise _invalid(f"it announces {expected} rows and sends {count if count < expected else 'more'}")


def _typed(parameters: Mapping[str, Any]) -> list[Any]:
    """Return query parameters as the client wants them."""
    from google.cloud import bigquery  # noqa: PLC0415 - see the module

    return [
        bigquery.ArrayQueryParameter(name, "STRING", list(value))
        if isinstance(value, tuple)
        else bigquery.ScalarQueryParameter(name, "TIMESTAMP", value)
        for name, value in parameters.items()
    ]


def question(
    export: Export, table: Any, selection: Selection, window: Window
) -> tuple[str, Mapping[str, datetime | tuple[str, ...]]]:
    """
    Return the query for a window, and its parameters.

    Rows of the export are added up to days. Three kinds of rows come back (``reading``): what is ``read``; services that
    are ``unread`` although their SKUs count tokens; and ``late`` rows of days before the window.
    """
    columns = {field.name for field in table.schema}

    def there(paths: Mapping[str, str]) -> dict[str, str]:
        return {name: path for name, path in paths.items() if path.partition(".")[0] in columns}

    dimensions, names, sums = there(_DIMENSIONS), there(_NAMES), there(_SUMS)
    inner = [f"{path} AS {name}" for name, path in (dimensions | names).items()]
    inner += [f"{_NUMERIC.format(path)} AS {name}" for name, path in sums.items()]
    # A join with the credits would count the cost once for each of them.
    credit = f"SELECT SUM({_NUMERIC.format('credit.amount')}) FROM UNNEST(credits) AS credit"  # noqa: S608
    inner += [f"({credit}) AS credits"]
    inner += [f"({credit} WHERE credit.type = '{kind}') AS credit_{n}" for n, kind in enumerate(CREDIT_TYPES)]
    credits = ["credits", *(f"credit_{n}" for n in range(len(CREDIT_TYPES)))]

    def of(name: str) -> str:
        """Keep a column of other services' rows to ourselves, but for the service's name."""
        shown = "IN ('read', 'unread')" if name.startswith("service_") else "= 'read'"
        return f"IF(reading {shown}, {name}, NULL)"

    outer = [f"{of(name)} AS {name}" for name in dimensions]
    outer += [f"MAX({of(name)}) AS {name}" for name in names]
    outer += [f"SUM({of(name)}) AS {name}" for name in (*sums, *credits)]
    is_ai = (
        "(service.id IN UNNEST(@services) OR EXISTS "
        "(SELECT 1 FROM UNNEST(@prefixes) AS prefix WHERE STARTS_WITH(service.description, prefix)))"
    )
    counts_tokens = r"REGEXP_CONTAINS(LOWER(sku.description), r'\b(input|output|cached?|caching)\b.*\btokens?\b')"
    is_late = f"export_time >= TIMESTAMP_ADD(usage_start_time, INTERVAL {LATE_AFTER_DAYS} DAY)"
    pruning, parameters = _pruning(table, window)
    groups = ", ".join(str(n + 1) for n in range(len(dimensions) + 2))
    sql = f"""
SELECT
  usage_date,
  reading,
  {", ".join(outer)},
  MAX(export_time) AS exported_at,
  COUNT(*) AS row_count
FROM (
  SELECT
    DATE(usage_start_time, 'UTC') AS usage_date,
    CASE
      WHEN usage_start_time < @start THEN IF({is_ai} AND {is_late}, 'late', NULL)
      WHEN {is_ai} THEN 'read'
      WHEN {counts_tokens} AND service.id NOT IN UNNEST(@left_out) THEN 'unread'
    END AS reading,
    {", ".join(inner)},
    export_time
  FROM `{export.path}`
  WHERE {pruning}usage_start_time < @end
)
WHERE reading IS NOT NULL
GROUP BY {groups}
"""  # noqa: S608 - the table's name is checked, everything else is a parameter or a word of our own
    return sql, parameters | {
        "start": window.start_at,
        "end": window.end_at,
        "services": selection.services,
        "prefixes": selection.prefixes,
        "left_out": selection.left_out,
    }


def _pruning(table: Any, window: Window) -> tuple[str, dict[str, Any]]:
    """
    Return the condition that keeps a query to the partitions that can hold a window's rows.

    A row never comes before its usage, and may come at any time after it; so there is a first partition and no last one.
    """
    partitioning = table.time_partitioning
    if table.table_type != "TABLE" or partitioning is None:
        return "", {}
    first = midnight(window.first - ONE_DAY)
    if partitioning.field is None:
        # Rows that are still being streamed have no partition yet.
        return "(_PARTITIONTIME >= @partition OR _PARTITIONTIME IS NULL) AND ", {"partition": first}
    if partitioning.field in ("usage_start_time", "export_time"):
        return f"{partitioning.field} >= @partition AND ", {"partition": first}
    return "", {}


# ---------------------------------------------------------------- reading answers


@dataclass(frozen=True)
class Day:
    """One record and its day."""

    usage_date: date
    record: dict[str, Any]


def records(rows: Iterable[Mapping[str, Any]], window: Window, connection: Connection) -> list[Day]:
    """
    Return the records of an answer, by day and place; leave notes on what else it says.

    :raises ResponseInvalid: if a row lacks what it must have, or says the same thing twice.
    """
    found: dict[tuple[str, ...], Day] = {}
    for row in rows:
        day = row.get("usage_date")
        if type(day) is not date:
            raise _invalid("a row has no day")
        match row.get("reading"):
            case "read":
                record = _record(row)
                key = (day.isoformat(), *(str(record.get(name, "")) for name in GRAIN))
                if key in found:
                    raise _invalid("it has the same row twice")
                if day not in window:
                    raise _invalid(f"it speaks of {day}, which was not asked for")
                found[key] = Day(day, record)
            case "late" if isinstance(row.get("exported_at"), datetime):
                connection.journal.notes.append(_late(day, row["exported_at"]))
            case "unread":
                connection.journal.notes.append(_unread(row))
            case _:
                raise _invalid("a row is of no known kind")
    connection.journal.notes[:] = _once(connection.journal.notes)
    return [found[key] for key in sorted(found)]


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as it is stored: without what is not there, credits by their type."""
    for name in _REQUIRED:
        if row.get(name) is None:
            raise _invalid(f"{name} is missing from a row")
    record = {name: row[name] for name in (*_DIMENSIONS, *_NAMES) if row.get(name) is not None}
    if not all(isinstance(value, str) for value in record.values()):
        raise _invalid("a name is not a text")
    record |= {name: _number(name, row[name]) for name in _SUMS if row.get(name) is not None}
    total = _number("credits", row.get("credits") or Decimal(0))
    by_type = {
        kind: _number("credits", row[f"credit_{n}"])
        for n, kind in enumerate(CREDIT_TYPES)
        if row.get(f"credit_{n}") is not None
    }
    other = total - sum(by_type.values(), Decimal(0))
    if other:
        by_type["OTHER"] = other
    record["credits"] = total
    if by_type:
        record["credits_by_type"] = by_type
    exported, count = row.get("exported_at"), row.get("row_count")
    if not isinstance(exported, datetime) or type(count) is not int:
        raise _invalid("a row does not say when it was exported")
    return record | {"exported_at": exported.astimezone(UTC).isoformat(), "row_count": count}


def _number(name: str, value: Any) -> Decimal:
    if not isinstance(value, Decimal) or not value.is_finite():
        raise _invalid(f"{name} is not a number")
    # One spelling per number, so that a zero at its end is no change.
    return value.quantize(Decimal(1)) if value == value.to_integral_value() else value.normalize()


def _late(day: date, exported: datetime) -> Note:
    return Note(
        "late_rows",
        f"On {exported.astimezone(UTC):%Y-%m-%d} Google billed something for {day}, {LATE_AFTER_DAYS} days or more before.",
        f"Read that day again: trigger the DAG with from and to {day}.",
    )


def _unread(row: Mapping[str, Any]) -> Note:
    return Note(
        "service_not_read",
        f"The bill has a service that counts tokens and is not read: {_word(row.get('service_description'))} "
        f"({_word(row.get('service_id'))}).",
        "If it belongs to Vertex AI, add its id to services in the connection and read the days again.",
    )


def _once(notes: Sequence[Note]) -> list[Note]:
    return list(dict.fromkeys(notes))


def _word(value: Any) -> str:
    """Return a name out of an answer for an event: short, and in one line."""
    text = str(value)[:60]
    return text if text.isprintable() else "unreadable"


def note_columns(table: Any, connection: Connection) -> None:
    """Tell of columns that this project does not know; Google's export grows. They are not read."""
    drift = Drift("The export")
    known = _NEEDED | _OPTIONAL | _UNREAD
    for name in sorted({field.name for field in table.schema} - known):
        drift.remark(f"The export has a column that this project does not know: {_word(name)}. It is not read.")
    drift.tell(connection.journal)


def _shown(count: int | None) -> str:
    """Return bytes for people."""
    return "an unknown number of bytes" if count is None else f"{count / MEGABYTE:,.1f} MB"


def _invalid(problem: str) -> ResponseInvalid:
    return ResponseInvalid(
        f"BigQuery's answer is not as documented: {problem}; nothing was stored.", action="Report this."
    )
