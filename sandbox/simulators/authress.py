"""
Authress: two audit streams where customers land them, and as much of the API as verifies a key.

The company's stream lands in a bucket of moto's S3, which answers under ``/authress/s3/``; without moto, that account is
not there. The laboratory's lands in a folder of the sandbox's state. Both hold what streams hold: events twice, out of
order, late, folded (``count``), of unknown kinds, and now and then a last line that is cut off.

Its own faults, beside those of :mod:`sandbox.faults` (of the bucket, unless another is named):

================  ======================================================================================================
kind              what happens
================  ======================================================================================================
small_pages       the list comes in pages of ``size`` names
list_loops        the list's next page is always the same
page_twice        every page of the list comes twice
object_gone       404 for an object that was listed
object_changed    412: another version than was listed
object_archived   403: in Glacier
other_object      an object comes with one byte more than was listed
wrong_key         the API: the key has been deleted (401)
no_rights         the API: 403
================  ======================================================================================================
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sandbox.contract import UNKNOWN, Call, Frame, Simulator
from sandbox.errors import SandboxError
from sandbox.faults import FaultsInForce
from sandbox.http import Request, Response, json_response
from sandbox.truth import days_between, draw, draw_between
from sandbox.truth.authress import (
    ACCOUNTS,
    CHANGE,
    CHECK,
    COMPANY,
    LAB,
    PROVIDER,
    RULES,
    Account,
    AuthressTruth,
    Use,
)

BUCKET, PREFIX = "sandbox-authress-audit", "stream/"
ACCESS_KEY, SECRET_KEY = "SANDBOXAUTHRESSLANDING", "sandbox-only-not-a-real-secret"
DAY_FOLDERS = "year={year}/month={month}/day={day}/"
_DROPPED_HEADERS = {"content-length", "connection", "date", "server", "transfer-encoding"}


def private_key(account: Account) -> Ed25519PrivateKey:
    """Return what the account's service client signs with: the same in every sandbox, and good for nothing else."""
    return Ed25519PrivateKey.from_private_bytes(sha256(f"sandbox only: {account.client_id}".encode()).digest())


def access_key(account: Account) -> str:
    """Return the access key as Authress shows it once."""
    der = private_key(account).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return f"{account.client_id}.key-1.{account.account_id}.{base64.b64encode(der).decode()}"


# ---------------------------------------------------------------- the streams


def events(truth: AuthressTruth, account: Account, day: date) -> Iterator[tuple[date, dict[str, Any]]]:
    """Yield the events of a day with the day on which each lands; some come twice."""
    today = truth.world.clock.today()
    for use, calls in truth.used(account, day):
        for number, detail in enumerate(_details(truth, account, use, day, calls)):
            key = (truth.world.seed, account.account_id, day, detail["eventId"])
            moment = datetime.combine(day, time(), UTC) + timedelta(seconds=draw(*key, "time") % 86_400)
            kind = "LoginRequest" if use.event == "UserLogin" and number % 2 else use.event
            event = {
                "version": "0",
                "id": detail["eventId"].removeprefix("evt_"),
                "source": f"aws.partner/authress.io/{account.account_id}/audit",
                "account": "123456789012",
                "region": "eu-west-1",
                "resources": [],
                "detail-type": kind,
                "time": moment.isoformat().replace("+00:00", "Z"),
                "detail": detail,
            }
            late = draw_between(1, 7, *key, "late") if draw(*key, "is late") % 7 == 0 else 0
            landed_on = day + timedelta(days=late)
            landed_on = landed_on if landed_on <= today else day
            yield landed_on, event
            if draw(*key, "twice") % 5 == 0:
                yield min(landed_on + timedelta(days=draw(*key, "again") % 2), day + timedelta(days=7), today), event


def _details(truth: AuthressTruth, account: Account, use: Use, day: date, calls: int) -> Iterator[dict[str, Any]]:
    """Yield what the events of one use say; together they are its calls."""
    key = (truth.world.seed, account.account_id, use.path, use.action, use.result, use.event, day)
    number = 0
    while calls:
        number += 1
        count = min(calls, draw_between(1, max(1, min(use.most // 3, 900_000_000)), *key, number))
        ids = iter(f"{draw(*key, number, place):x}"[:9] for place in range(1000))

        def with_ids(text: str, ids: Iterator[str] = ids) -> str:
            return re.sub("#", lambda _: next(ids), text)

        detail: dict[str, Any] = {"eventId": f"evt_{draw(*key, number, 'id'):016x}"}
        user = {"userId": f"user_{draw(*key, number, 'user') % 500}"}
        if use.event == CHECK:
            detail |= {"user": user, "resource": {"resourceUri": with_ids(use.path)}}
            detail |= {"permission": {"action": with_ids(use.action)}}
            detail |= {"authorizationResult": use.result} | ({"count": count} if count > 1 or number % 2 else {})
        elif use.event == CHANGE:
            changes = [user | {"resourceUri": with_ids(use.path), "operation": use.action} for _ in range(count)]
            detail |= {"triggeredBy": {"recordId": "rec_1", "version": "1788266579422"}, "changes": changes}
        else:
            count = 1
            sub_type = use.action if number % 2 or use.action != "Login" else None
            detail |= {"subType": sub_type, "user": user, "loginResult": use.result}
        calls -= count
        yield detail


def landed(truth: AuthressTruth, account: Account) -> dict[date, list[bytes]]:
    """Return the day of landing → what landed, in the order of nothing in particular."""
    days: dict[date, list[dict[str, Any]]] = {}
    for day in days_between(truth.first_day, truth.world.clock.today()):
        for landed_on, event in events(truth, account, day):
            days.setdefault(landed_on, []).append(event)
    for day, found in days.items():
        if day.day % 4 == 0:
            other = {"eventId": f"evt_other_{day}", "user": {"userId": "user_1"}}
            found.append(found[0] | {"detail-type": "ServiceClientRotated", "detail": other})
        found.sort(key=lambda event: draw(event["detail"]["eventId"], event["time"]))
    return {day: [json.dumps(event).encode() for event in found] for day, found in sorted(days.items())}


def objects(truth: AuthressTruth, account: Account, layout: str, packed: bool) -> dict[str, bytes]:
    """Return name → content of everything that has landed."""
    made: dict[str, bytes] = {}
    for day, found in landed(truth, account).items():
        folder = layout.format(year=f"{day.year:04d}", month=f"{day.month:02d}", day=f"{day.day:02d}")
        parts = 3 if packed else 2
        for part in range(parts):
            content = b"".join(line + b"\n" for line in found[part::parts])
            if content and packed:
                hour = (3, 11, 20)[part]
                made[f"{folder}{hour:02d}/audit-1-{day}-{hour:02d}-00-00.gz"] = gzip.compress(content, mtime=0)
            elif content:
                # Now and then the beginning of an event that is whole elsewhere.
                cut = found[0][: len(found[0]) // 2] if day.day % 5 == 0 else b""
                made[f"{folder}part-{part}.ndjson"] = content + cut
    return made


# ---------------------------------------------------------------- the simulator


class AuthressSimulator(Simulator):
    """Authress."""

    name = PROVIDER
    fault_kinds = {  # noqa: RUF012 - as the frame declares it
        "small_pages": "the list comes in small pages",
        "list_loops": "the list does not come to an end",
        "page_twice": "every page of the list comes twice",
        "object_gone": "404 for an object",
        "object_changed": "412 for an object",
        "object_archived": "403 for an object in Glacier",
        "other_object": "an object is longer than was listed",
        "wrong_key": "the API does not know the key",
        "no_rights": "the API refuses to show the service client",
    }

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        truth = frame.truth.of(PROVIDER)
        assert isinstance(truth, AuthressTruth)
        self._truth = truth
        self._with_s3 = frame.moto_port is not None
        self._lock = Lock()
        self._written: Any = None
        self._seeded: Any = None
        self._moto: Any = None
        self._stopped = Event()
        kept = truth.world.folder
        self.folder = kept.resolve() / "authress" if kept else Path(tempfile.mkdtemp(prefix="sandbox_authress_"))
        self._is_kept = kept is not None

    def start(self) -> None:
        """Write the folder, and keep it as true as the world is."""
        self._write_folder()
        self._truth.world.restatements.subscribe(self._write_folder)
        Thread(target=self._follow_the_clock, name="sandbox-authress", daemon=True).start()

    def stop(self) -> None:
        """Leave the folder where state is kept; take it away where not."""
        self._stopped.set()
        if not self._is_kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    def identify(self, request: Request) -> Call:
        """Say who calls, by the token or the AWS key, and what for."""
        if request.path.startswith("/s3/"):
            return self._identify_at_s3(request)
        is_known = re.fullmatch(r"/v1/clients/[^/]+", request.path) and request.method == "GET"
        operation = "getClient" if is_known else UNKNOWN
        account = self._caller(request)
        refusal = None if account else _api_error(401, "Unauthorized", "Unauthorized")
        return Call(PROVIDER, account.account_id if account else UNKNOWN, "-", operation, refusal)

    def answer(self, call: Call, request: Request, faults: FaultsInForce) -> Response:
        """Answer from the truth."""
        if request.path.startswith("/s3/"):
            return self._answer_as_s3(call, request, faults)
        if "wrong_key" in faults:
            return _api_error(401, "Unauthorized", "Unauthorized")
        if "no_rights" in faults:
            return _api_error(403, "Forbidden", "Forbidden")
        account = next(one for one in ACCOUNTS if one.account_id == call.account)
        # The laboratory's client has no rights at all: to it, there is nothing anywhere.
        if account is LAB or call.operation == UNKNOWN or not request.path.endswith(f"/{account.client_id}"):
            return _api_error(404, "Not Found", "NotFound")
        return json_response({"clientId": account.client_id, "name": "usage", "createdTime": "2026-01-01T00:00:00Z"})

    def refuse(self, kind: str, call: Call) -> Response:
        """Return the words of a refusal: S3's, or Authress's."""
        statuses = {"throttling": 429, "access_denied": 403, "internal_error": 500, "service_unavailable": 503}
        status = statuses.get(kind, 401)
        if call.operation in ("ListObjectsV2", "GetObject"):
            codes = {
                "throttling": (503, "SlowDown"),
                "access_denied": (403, "AccessDenied"),
                "internal_error": (500, "InternalError"),
                "service_unavailable": (503, "ServiceUnavailable"),
                "expired_token": (400, "ExpiredToken"),
            }
            return _s3_error(*codes.get(kind, (403, "InvalidAccessKeyId")))
        return _api_error(status, "Refused", {429: "TooManyRequests", 403: "Forbidden"}.get(status, "Unauthorized"))

    def supports(self, kind: str, account: str) -> bool:  # noqa: ARG002
        """Whether a fault can be committed: Authress has no regions."""
        return kind != "opt_in_region_disabled"

    def connections(self, base_url: str) -> list[dict[str, Any]]:
        """Return the laboratory's connection, and with moto the company's and that of its bucket."""
        start_date = self._truth.first_day.isoformat()
        common = {"start_date": start_date}
        found = [
            _connection(
                "authress_default",
                LAB,
                base_url,
                common
                | {
                    "location": str(self.folder),
                    "day_folders": DAY_FOLDERS,
                    "events": "checks, access_changes, logins",
                    "resource_templates": ", ".join(RULES),
                },
            )
        ]
        if self._with_s3:
            landing = {"location": f"s3://{BUCKET}/{PREFIX}", "storage_connection": "authress_landing_default"}
            found.append(_connection("authress_company", COMPANY, base_url, common | landing))
            found.append(
                {
                    # Of no provider of this project: it is read with, not read.
                    "provider": "authress_landing",
                    "connection_id": "authress_landing_default",
                    "conn_type": "aws",
                    "login": ACCESS_KEY,
                    "password": SECRET_KEY,
                    "extra": common
                    | {"region_name": "eu-west-1", "service_config": {"s3": {"endpoint_url": f"{base_url}/s3"}}},
                    "description": "AI usage sandbox: the bucket that the company's audit stream lands in. Not real.",
                }
            )
        return found

    # ---------------------------------------------------------------- the API

    def _caller(self, request: Request) -> Account | None:
        """Return whose token it is, if every claim is as Authress wants it."""
        token = request.header("authorization").removeprefix("Bearer ")
        for account in ACCOUNTS:
            try:
                claims = jwt.decode(
                    token,
                    private_key(account).public_key(),
                    algorithms=["EdDSA"],
                    audience=f"{account.account_id}.accounts.authress.io",
                    issuer=f"http://{request.header('host')}/{PROVIDER}/v1/clients/{account.client_id}",
                    options={"require": ["aud", "iss", "sub", "exp", "iat"]},
                )
            except jwt.InvalidTokenError:
                continue
            header = jwt.get_unverified_header(token)
            is_right = header["kid"] == "key-1" and header["typ"] == "at+jwt" and claims["scope"] == "openid"
            if is_right and claims["sub"] == claims["client_id"] == account.client_id:
                return account
        return None

    # ---------------------------------------------------------------- the folder

    def _write_folder(self) -> None:
        """Make the folder what it should be by now; files appear whole."""
        world = self._truth.world
        with self._lock:
            due = (world.clock.today(), world.restatements.version)
            if self._written == due or self._stopped.is_set():
                return
            wanted = objects(self._truth, LAB, DAY_FOLDERS, packed=False)
            for path in [path for path in self.folder.rglob("*") if path.is_file()]:
                if path.relative_to(self.folder).as_posix() not in wanted:
                    path.unlink()
            for name, content in wanted.items():
                path = self.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_suffix(".part").write_bytes(content)
                path.with_suffix(".part").replace(path)
            self._written = due

    def _follow_the_clock(self) -> None:
        while not self._stopped.wait(5):
            self._write_folder()

    # ---------------------------------------------------------------- the bucket

    def _identify_at_s3(self, request: Request) -> Call:
        is_list = request.path.strip("/") == f"s3/{BUCKET}"
        operation = ("ListObjectsV2" if is_list else "GetObject") if request.method == "GET" else UNKNOWN
        is_known = f"Credential={ACCESS_KEY}/" in request.header("authorization") and self._with_s3
        refusal = None if is_known else _s3_error(403, "InvalidAccessKeyId")
        if is_known and not request.path.startswith(f"/s3/{BUCKET}"):
            refusal = _s3_error(404, "NoSuchBucket")
        return Call(PROVIDER, COMPANY.account_id if is_known else UNKNOWN, "-", operation, refusal)

    def _answer_as_s3(self, call: Call, request: Request, faults: FaultsInForce) -> Response:
        for kind, status, code in (
            ("object_gone", 404, "NoSuchKey"),
            ("object_changed", 412, "PreconditionFailed"),
            ("object_archived", 403, "InvalidObjectState"),
        ):
            if kind in faults and call.operation == "GetObject":
                return _s3_error(status, code)
        parts = urlsplit(request.target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        pages = faults.get("small_pages")
        if pages and call.operation == "ListObjectsV2":
            query["max-keys"] = str(pages.size or 7)
        again = query.pop("continuation-token", "")
        is_repeat = again.startswith("again:")
        if again and not ("list_loops" in faults or again == "again:"):
            query["continuation-token"] = again.removeprefix("again:")
        path = unquote(parts.path).partition("/s3/")[2]
        with self._lock:
            self._seed_if_stale()
            answer = self._ask_moto("GET", f"/{path}", query, headers=request.headers)
        if call.operation == "ListObjectsV2":
            answer = _list_spoilt(answer, again.removeprefix("again:"), is_repeat, faults)
        if "other_object" in faults and call.operation == "GetObject":
            return Response(answer.status, answer.body + b"\n", answer.headers)
        return answer

    def _ask_moto(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        from werkzeug.test import Client

        passed = {
            name: value for name, value in (headers or {}).items() if name in ("if-match", "range", "authorization")
        }
        answer = Client(self._moto).open(
            path, method=method, query_string=urlencode(query or {}), data=content, headers=passed
        )
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _DROPPED_HEADERS}
        return Response(answer.status_code, answer.get_data(), kept)

    def _seed_if_stale(self) -> None:
        """Fill the bucket if the truth changed since, or the day; or if somebody else has emptied moto's world."""
        if self._moto is None:
            from moto.moto_server.werkzeug_app import create_backend_app

            self._moto = create_backend_app("s3")
        world = self._truth.world
        due = (world.clock.today(), world.restatements.version)
        if self._seeded == due and self._ask_moto("HEAD", f"/{BUCKET}").status == 200:
            return
        wanted = objects(self._truth, COMPANY, "{year}/{month}/{day}/", packed=True)
        self._ask_moto("PUT", f"/{BUCKET}")
        for name in self._names() - {PREFIX + name for name in wanted}:
            self._ask_moto("DELETE", f"/{BUCKET}/{name}")
        for name, content in wanted.items():
            if self._ask_moto("PUT", f"/{BUCKET}/{PREFIX}{name}", content=content).status != 200:
                raise SandboxError(f"moto's S3 did not take {name}.")
        # What Firehose could not deliver lies beside the stream.
        failed = f"/{BUCKET}/{PREFIX}processing-failed/2026/broken.gz"
        self._ask_moto("PUT", failed, content=b"not an event\n")
        self._seeded = due

    def _names(self) -> set[str]:
        found: set[str] = set()
        query = {"list-type": "2"}
        while True:
            body = self._ask_moto("GET", f"/{BUCKET}", query).body.decode()
            found |= set(re.findall(r"<Key>(.*?)</Key>", body))
            token = re.search(r"<NextContinuationToken>(.*?)</NextContinuationToken>", body)
            if token is None:
                return found
            query["continuation-token"] = token[1]


def _list_spoilt(answer: Response, token: str, is_repeat: bool, faults: FaultsInForce) -> Response:
    """Return a page of a list as a fault leaves it."""
    text = answer.body.decode()
    if "list_loops" in faults:
        token = "round-and-round"
    elif "page_twice" in faults and not is_repeat:
        token = f"again:{token}"
    else:
        return answer
    text = re.sub(r"<NextContinuationToken>.*?</NextContinuationToken>", "", text)
    text = text.replace("<IsTruncated>false</IsTruncated>", "<IsTruncated>true</IsTruncated>")
    text = text.replace("<IsTruncated>true", f"<NextContinuationToken>{token}</NextContinuationToken><IsTruncated>true")
    return Response(answer.status, text.encode(), answer.headers)


def _connection(connection_id: str, account: Account, base_url: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "connection_id": connection_id,
        "conn_type": "ai_usage_authress",
        "login": None,
        "host": base_url,
        "password": access_key(account),
        "extra": {"account_id": account.account_id, "account_name": account.name, **extra},
        "description": f"AI usage sandbox: {account.name} on the sandbox's Authress. Not real.",
    }


def _api_error(status: int, title: str, code: str) -> Response:
    return json_response({"title": title, "errorCode": code, "errorId": "sandbox-0001"}, status)


def _s3_error(status: int, code: str) -> Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return Response(status, body.encode(), {"Content-Type": "application/xml"})


SIMULATOR = AuthressSimulator
