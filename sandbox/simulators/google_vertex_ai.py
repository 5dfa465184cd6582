"""
Google: BigQuery's REST API over the billing exports of two accounts, and the endpoint that trades a signed key for a token.

The SQL is executed (:mod:`sandbox.simulators._bigquery`), dry runs estimate what partitions would be scanned, and caps on
bytes are kept. Its own faults, beside those of :mod:`sandbox.faults`:

======================  ================================================================================================
kind                    what happens
======================  ================================================================================================
bare_throttling         429 without ``Retry-After``
quota_exceeded          403: the project's quota for the day is used up
billing_disabled        403: the job's project has no billing
api_disabled            403: the BigQuery API is not enabled
vpc_perimeter           403: VPC Service Controls
bytes_limit             the query scans a thousand times what its dry run said
wrong_location          404: the table is not in the location that was asked
deleted_account         no token: the service account is gone
wrong_signature         no token: the key is not the account's
wrong_clock             no token: the assertion is from another time
small_pages             at most ``size`` rows on a page (5)
slow_job                the job is not done when it is first asked about
page_twice              every page comes twice
cursor_loop             every page names the same next one, for ever
empty_pages             pages without rows, for ever
rows_missing            fewer rows than announced
view                    the export is a view
no_export               the dataset holds no export table
foreign_export          the dataset also lists another account's export, which is gone
both_exports            the dataset holds the standard and the detailed export of the account
stalled                 the table was last written ten days ago
column_missing          the table lacks ``credits``
unknown_columns         the table has columns that no document names
unknown_service         the bill has a service that nobody knows and whose SKU counts tokens
missing_field           rows lack their currency
odd_number              money comes as words
======================  ================================================================================================
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from itertools import count
from random import Random
from typing import Any

from sandbox.contract import UNKNOWN, Call, Frame, Simulator
from sandbox.faults import FaultsInForce
from sandbox.http import Request, Response
from sandbox.simulators._bigquery import Engine, QueryRefused, Result, fields_of, partition_column, schema_of
from sandbox.truth.google_vertex_ai import ACCOUNTS, LAB, PROVIDER, Account, GoogleVertexAITruth

API = "/bigquery/v2/projects/"
ROWS_PER_PAGE = 100_000
JOBS_REMEMBERED = 100
READER, NO_JOBS, NO_DATA = "reader", "no-jobs", "no-data"
ROLES = (READER, NO_JOBS, NO_DATA)
_SECRET = b"sandbox only: tokens are signed with this"

Row = dict[str, Any]


class Refused(Exception):
    """An error answer in Google's words."""

    def __init__(self, status: int, reason: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> Response:
        """Return it as an answer."""
        detail = {"message": str(self), "domain": "global", "reason": self.reason}
        error = {"code": self.status, "message": str(self), "errors": [detail], "status": "SANDBOX"}
        return _json({"error": error}, self.status, self.headers)


class NoToken(Exception):
    """A refusal of the token endpoint: another server, another shape."""

    def response(self) -> Response:
        """Return it as an answer."""
        return _json({"error": "invalid_grant", "error_description": str(self)}, 400)


@dataclass(frozen=True)
class Principal:
    """A service account: whose it is, and what it may do."""

    account: Account
    role: str

    @property
    def email(self) -> str:
        """Its name."""
        return f"ai-usage-{self.role}@{self.account.job_project}.iam.gserviceaccount.com"


PRINCIPALS = {one.email: one for account in ACCOUNTS for role in ROLES for one in [Principal(account, role)]}


@cache
def private_key() -> Any:
    """Return the key that all service accounts share, made of the same numbers everywhere: none is kept in a file."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    random = Random("a key for the sandbox, and for nothing else")
    p, q = _prime(random), _prime(random)
    exponent = 65537
    d = pow(exponent, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(exponent, p * q)
    )
    return numbers.private_key()


def keyfile(account: Account, base_url: str, role: str = READER) -> Row:
    """Return the file that Google would give for a service account's key."""
    from cryptography.hazmat.primitives import serialization as form

    pem = private_key().private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return {
        "type": "service_account",
        "project_id": account.job_project,
        "private_key_id": "sandbox",
        "private_key": pem.decode(),
        "client_email": Principal(account, role).email,
        "client_id": "1",
        "token_uri": f"{base_url}/token",
    }


@dataclass
class _Job:
    result: Result
    account: Account
    waits: int = 0


class GoogleSimulator(Simulator):
    """BigQuery and Google's token endpoint."""

    name = PROVIDER
    fault_kinds = {  # noqa: RUF012 - as the frame declares it
        "bare_throttling": "429 without Retry-After",
        "quota_exceeded": "the quota for the day is used up",
        "billing_disabled": "the job's project has no billing",
        "api_disabled": "the BigQuery API is not enabled",
        "vpc_perimeter": "VPC Service Controls",
        "bytes_limit": "queries scan a thousand times the estimate",
        "wrong_location": "the table is not in the location asked",
        "deleted_account": "the service account is gone",
        "wrong_signature": "the key is not the account's",
        "wrong_clock": "the assertion is from another time",
        "small_pages": "at most `size` rows on a page (5)",
        "slow_job": "the job is not done at first",
        "page_twice": "every page twice",
        "cursor_loop": "the same next page, for ever",
        "empty_pages": "pages without rows, for ever",
        "rows_missing": "fewer rows than announced",
        "view": "the export is a view",
        "no_export": "no export table",
        "foreign_export": "another account's export, which is gone",
        "both_exports": "standard and detailed export",
        "stalled": "last written ten days ago",
        "column_missing": "the table lacks credits",
        "unknown_columns": "the table has unknown columns",
        "unknown_service": "an unknown service counts tokens",
        "missing_field": "rows lack their currency",
        "odd_number": "money as words",
    }

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        truth = frame.truth.of(PROVIDER)
        assert isinstance(truth, GoogleVertexAITruth)
        self._truth = truth
        self._engines = {account.account_id: Engine(truth, account) for account in ACCOUNTS}
        self._jobs: dict[str, _Job] = {}
        self._numbers = count()

    def identify(self, request: Request) -> Call:
        """Say who calls, by the token or the assertion, and what for."""
        email = _claims(request).get("iss") if request.path == "/token" else _bearer(request)
        principal = PRINCIPALS.get(str(email))
        return Call(PROVIDER, principal.account.account_id if principal else UNKNOWN, "-", _operation(request))

    def answer(self, call: Call, request: Request, faults: FaultsInForce) -> Response:
        """Answer from the truth."""
        try:
            if call.operation == "token":
                return _json(_token(request, faults))
            return _json(self._content(call.operation, request, faults))
        except QueryRefused as refused:
            return Refused(404 if refused.reason == "notFound" else 400, refused.reason, str(refused)).response()
        except (Refused, NoToken) as refused:
            return refused.response()

    def refuse(self, kind: str, call: Call) -> Response:
        """Return Google's words for a refusal."""
        if call.operation == "token" and kind in ("invalid_credentials", "access_denied"):
            return NoToken("Invalid JWT Signature.").response()
        if kind == "throttling":
            return Refused(429, "rateLimitExceeded", "Exceeded rate limits", Retry_After="7").response()
        return {
            "access_denied": _denied("Table sandbox: User does not have permission to query table sandbox"),
            "internal_error": Refused(
                500, "backendError", "Error encountered during execution. Retrying may solve it."
            ),
            "service_unavailable": Refused(503, "backendError", "Visibility check was unavailable."),
        }.get(kind, Refused(401, "authError", "Invalid Credentials")).response()

    def supports(self, kind: str, account: str) -> bool:  # noqa: ARG002
        """Whether a fault can be committed: no region of Google's must be switched on."""
        return kind != "opt_in_region_disabled"

    def connections(self, base_url: str) -> list[Row]:
        """Return a connection per billing account."""
        start = min(self._truth.world.opened, self._truth.world.clock.today()).isoformat()
        found = []
        for account, suffix in zip(ACCOUNTS, ("default", "lab"), strict=True):
            extra: Row = {
                "project": account.job_project,
                "keyfile_dict": json.dumps(keyfile(account, base_url)),
                "api_endpoint": base_url,
                "dataset": f"{account.project}.{account.dataset}",
                "account_name": account.name,
                "start_date": start,
            }
            if account is LAB:
                extra |= {
                    "table": account.table,
                    "location": account.location,
                    "billing_account_id": account.account_id,
                    "max_gigabytes": 2,
                }
            found.append(
                {
                    "connection_id": f"google_vertex_ai_{suffix}",
                    "conn_type": "google_cloud_platform",
                    "login": None,
                    "password": None,
                    "extra": extra,
                    "description": f"AI usage sandbox: {account.name} on the sandbox's BigQuery. Not real.",
                }
            )
        return found

    # ---------------------------------------------------------------- operations

    def _content(self, operation: str, request: Request, faults: FaultsInForce) -> Row:
        principal = PRINCIPALS.get(str(_bearer(request)))
        if principal is None:
            raise Refused(401, "authError", "Request had invalid authentication credentials.")
        account = principal.account
        if "bare_throttling" in faults:
            raise Refused(429, "rateLimitExceeded", "Exceeded rate limits")
        for kind, status, reason, words in _REFUSALS:
            if kind in faults:
                raise Refused(status, reason, words)
        if operation == "tables.list":
            self._allow(principal, "bigquery.tables.list", operation)
            return _tables(account, faults)
        if operation == "tables.get":
            self._allow(principal, "bigquery.tables.get", operation)
            return self._table(account, request.path.rpartition("/")[2], faults)
        if operation == "queries.get":
            return self._page(request.path.rpartition("/")[2], request.query, faults)
        if operation == "jobs.get":
            name = request.path.rpartition("/")[2]
            return _job(name, self._jobs[name].account, "RUNNING" if self._jobs[name].waits else "DONE")
        if operation in ("jobs.insert", "jobs.query"):
            return self._query(principal, operation, request, faults)
        raise Refused(404, "notFound", "Not found")

    def _allow(self, principal: Principal, permission: str, operation: str) -> None:
        if principal.role == NO_DATA and operation.startswith("tables."):
            place = f"{principal.account.project}:{principal.account.dataset}"
            raise _denied(f"Dataset {place}: Permission {permission} denied on dataset {place} (or it may not exist).")

    def _query(self, principal: Principal, operation: str, request: Request, faults: FaultsInForce) -> Row:
        account = principal.account
        asked = json.loads(request.body)
        settings = asked["configuration"]["query"] if operation == "jobs.insert" else asked
        dry = (asked["configuration"] if operation == "jobs.insert" else asked).get("dryRun", False)
        project = request.path.removeprefix(API).partition("/")[0]
        if principal.role == NO_JOBS or project != account.job_project:
            raise _denied(
                f"Project {project}: User does not have bigquery.jobs.create permission in project {project}."
            )
        if settings.get("useLegacySql") is not False:
            raise Refused(400, "invalidQuery", "Legacy SQL is not spoken here.")
        where = (asked.get("jobReference") or asked).get("location")
        if "wrong_location" in faults or where not in (None, account.location):
            raise Refused(404, "notFound", f"Not found: Table was not found in location {where}")
        engine, parameters = self._engines[account.account_id], _parameters(settings.get("queryParameters", []))
        estimate = engine.estimate(settings["query"], parameters)
        if dry:
            statistics = {"query": {"totalBytesProcessed": str(estimate)}, "totalBytesProcessed": str(estimate)}
            return _job("dry", account) | {"configuration": asked["configuration"], "statistics": statistics}
        cap = int(settings.get("maximumBytesBilled") or 2**62)
        scanned = estimate * 1000 if "bytes_limit" in faults else estimate
        if scanned > cap:
            words = f"Query exceeded limit for bytes billed: {cap}. {scanned} or higher required."
            raise Refused(500, "bytesBilledLimitExceeded", words)
        job = _Job(_spoilt(engine.run(settings["query"], parameters), faults), account)
        name = f"sandbox_{next(self._numbers)}"
        self._jobs[name] = job
        self._jobs.pop(f"sandbox_{int(name.rpartition('_')[2]) - JOBS_REMEMBERED}", None)
        job.waits = 2 if "slow_job" in faults else 0
        return self._page(name, {"maxResults": str(settings.get("maxResults", ROWS_PER_PAGE))}, faults)

    def _page(self, name: str, query: Mapping[str, str], faults: FaultsInForce) -> Row:
        job = self._jobs.get(name)
        if job is None:
            raise Refused(404, "notFound", f"Not found: Job {name}")
        if job.waits:
            job.waits -= 1
            return {"jobReference": _reference(name, job.account), "jobComplete": False}
        result, total = job.result, len(job.result.rows)
        most = min(int(query.get("maxResults") or ROWS_PER_PAGE), ROWS_PER_PAGE)
        if small := faults.get("small_pages"):
            most = min(most, small.size or 5)
        if {"page_twice", "cursor_loop", "empty_pages"} & set(faults.content or {}):
            most = min(most, max(1, total // 2))
        offset, _, turn = (query.get("pageToken") or "0.0").partition(".")
        start = int(offset)
        rows = result.rows[start : start + most]
        ahead = f"{start + most}.0" if start + most < total else None
        if "page_twice" in faults and turn == "0":
            ahead = f"{start}.1"
        if "cursor_loop" in faults:
            ahead = "0.0"
        if "empty_pages" in faults and start:
            rows, ahead = [], f"{start}.{int(turn) + 1}"
        if "rows_missing" in faults:
            rows = rows[1:]
        answer = {
            "kind": "bigquery#queryResponse",
            "schema": {"fields": [{"name": name, "type": kind, "mode": "NULLABLE"} for name, kind in result.columns]},
            "jobReference": _reference(name, job.account),
            "totalRows": str(total),
            "rows": [{"f": [{"v": _cell(value)} for value in row]} for row in rows],
            "totalBytesProcessed": str(result.bytes),
            "jobComplete": True,
            "cacheHit": False,
        }
        return answer | ({"pageToken": ahead} if ahead else {})

    def _table(self, account: Account, name: str, faults: FaultsInForce) -> Row:
        if name != account.table:
            raise Refused(404, "notFound", f"Not found: Table {account.project}:{account.dataset}.{name}")
        today = self._truth.world.clock.today()
        written = today - timedelta(days=10) if "stalled" in faults else today
        fields, column = schema_of(fields_of(account)), partition_column(account)
        if "column_missing" in faults:
            fields = [field for field in fields if field["name"] != "credits"]
        if "unknown_columns" in faults:
            fields.append({"name": "moon_phase", "type": "STRING", "mode": "NULLABLE"})
        table = {
            "kind": "bigquery#table",
            "type": "TABLE",
            "tableReference": {"projectId": account.project, "datasetId": account.dataset, "tableId": name},
            "schema": {"fields": fields},
            "numRows": "1000",
            "creationTime": _milliseconds(self._truth.world.opened),
            "lastModifiedTime": _milliseconds(written),
            "location": account.location,
            "timePartitioning": {"type": "DAY"} | ({"field": column} if column else {}),
        }
        return table | {"type": "VIEW", "timePartitioning": None} if "view" in faults else table


SIMULATOR = GoogleSimulator

_REFUSALS = (
    ("quota_exceeded", 403, "quotaExceeded", "Custom quota exceeded: QueryUsagePerDay"),
    ("billing_disabled", 403, "billingNotEnabled", "Billing has not been enabled for this project."),
    (
        "api_disabled",
        403,
        "accessNotConfigured",
        "BigQuery API has not been used in project 1 before or it is disabled.",
    ),
    ("vpc_perimeter", 403, "vpcServiceControls", "Request is prohibited by organization's policy."),
)


def _operation(request: Request) -> str:
    rest = request.path.removeprefix(API).split("/")[1:]
    if request.path == "/token":
        return "token"
    if not request.path.startswith(API) or not rest:
        return UNKNOWN
    posted = {"jobs": "jobs.insert", "queries": "jobs.query"}
    if request.method == "POST":
        return posted.get(rest[0], UNKNOWN) if len(rest) == 1 else UNKNOWN
    if rest[0] in ("jobs", "queries") and len(rest) == 2:
        return f"{rest[0]}.get"
    if rest[0] == "datasets" and rest[2:3] == ["tables"]:
        return "tables.list" if len(rest) == 3 else "tables.get"
    return UNKNOWN


def _claims(request: Request) -> Row:
    """Return what an assertion says, unverified."""
    parts = request.form.get("assertion", "").split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
    except (ValueError, IndexError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _token(request: Request, faults: FaultsInForce) -> Row:
    """Trade a signed assertion for a token."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    claims = _claims(request)
    signed, _, signature = request.form.get("assertion", "").rpartition(".")
    if "deleted_account" in faults or claims.get("iss") not in PRINCIPALS:
        raise NoToken("Invalid grant: account not found")
    if "wrong_clock" in faults:
        raise NoToken("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.")
    try:
        if "wrong_signature" in faults:
            raise InvalidSignature
        given = base64.urlsafe_b64decode(signature + "==")
        private_key().public_key().verify(given, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, ValueError):
        raise NoToken("Invalid JWT Signature.") from None
    email = str(claims["iss"])
    return {"access_token": f"sandbox.{email}.{_seal(email)}", "expires_in": 3599, "token_type": "Bearer"}


def _seal(email: str) -> str:
    return hmac.new(_SECRET, email.encode(), hashlib.sha256).hexdigest()[:32]


def _bearer(request: Request) -> str | None:
    """Return who a token was given to, if it was."""
    email, _, seal = request.header("authorization").removeprefix("Bearer sandbox.").rpartition(".")
    return email if hmac.compare_digest(seal, _seal(email)) else None


def _tables(account: Account, faults: FaultsInForce) -> Row:
    names = ["cloud_pricing_export", "our_own_notes"]
    if "no_export" not in faults:
        names.append(account.table)
    if "foreign_export" in faults:
        names.append("gcp_billing_export_v1_FFFFFF_000000_FFFFFF")
    if "both_exports" in faults:
        names.append(account.table.replace("_v1_", "_resource_v1_"))
    place = {"projectId": account.project, "datasetId": account.dataset}
    tables = [{"tableReference": place | {"tableId": name}, "type": "TABLE"} for name in names]
    return {"kind": "bigquery#tableList", "tables": tables, "totalItems": len(tables)}


def _parameters(given: list[Row]) -> Row:
    found: Row = {}
    for one in given:
        value, kind = one["parameterValue"], one["parameterType"]["type"]
        if kind == "ARRAY":
            found[one["name"]] = [item["value"] for item in value.get("arrayValues", [])]
        elif kind == "TIMESTAMP":
            moment = datetime.fromisoformat(value["value"])
            found[one["name"]] = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        else:
            found[one["name"]] = value["value"]
    return found


def _spoilt(result: Result, faults: FaultsInForce) -> Result:
    """Return the answer as the faults leave it."""
    names = [name for name, _ in result.columns]
    columns, rows = result.columns, [dict(zip(names, row, strict=True)) for row in result.rows]
    if "missing_field" in faults:
        rows = [row | {"currency": None} for row in rows]
    if "odd_number" in faults:
        columns = [(name, "STRING" if name == "cost" else kind) for name, kind in columns]
        rows = [row | {"cost": "a lot"} for row in rows]
    if "unknown_service" in faults and rows:
        nobody = dict.fromkeys(names) | {"usage_date": rows[0]["usage_date"], "reading": "unread", "row_count": 1}
        rows.append(nobody | {"service_id": "FFFF-0000-FFFF", "service_description": "Nebula 3"})
    return Result(columns, [tuple(row[name] for name in names) for row in rows], result.bytes)


def _cell(value: Any) -> str | None:
    """Return a value as BigQuery sends it: as text, timestamps in microseconds."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return str(round(value.timestamp()) * 1_000_000)
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return value.isoformat() if isinstance(value, date) else str(value)


def _reference(name: str, account: Account) -> Row:
    return {"projectId": account.job_project, "jobId": name, "location": account.location}


def _job(name: str, account: Account, state: str = "DONE") -> Row:
    return {"kind": "bigquery#job", "jobReference": _reference(name, account), "status": {"state": state}}


def _denied(message: str) -> Refused:
    return Refused(403, "accessDenied", f"Access Denied: {message}")


def _milliseconds(day: date) -> str:
    return str(int(datetime.combine(day, time(3), tzinfo=UTC).timestamp()) * 1000)


def _json(content: Row, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})


def _prime(random: Random) -> int:
    """Return a prime of 512 bits; good enough for what protects nothing."""
    while True:
        number = random.getrandbits(512) | (3 << 510) | 1
        if (number - 1) % 65537 and all(pow(base, number - 1, number) == 1 for base in (2, 3, 5, 7, 11, 13)):
            return number
