"""
AWS Bedrock, as seen through CloudWatch, with STS beside it.

Two doubles tell the truth about one account each. moto's server (:mod:`sandbox.simulators._moto`) is independent of us
and filled through ``PutMetricData``; the double here is as strict as CloudWatch where moto is lenient: complete
dimension sets, namespaces, 500 queries, pages, the two-week horizon of ``ListMetrics``, retention. Both check
signatures.

Faults in the content, for the account of the double here only:

=============================  ========================================================================================
kind                           what happens
=============================  ========================================================================================
small_pages                    at most ``size`` data points (or metrics) on a page (default 1)
repeated_ids                   every result comes in two pieces under the same Id on one page, which is legal
partial_data_forever           every page says PartialData and names a next one; the data never ends
partial_data_without_token     half of the data, PartialData, and no way to go on
result_internal_error          the first result has the status InternalError
result_forbidden               the first result has the status Forbidden
cursor_loop                    the same next page, for ever
cursor_ping_pong               two pages that name each other as the next one
misaligned_timestamps          days that begin at half past six
non_integer_value              tokens and a half
unknown_fields                 results have fields that no document names, content among them
=============================  ========================================================================================
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any, ClassVar

from sandbox.contract import UNKNOWN, Call, Frame, Simulator, serve
from sandbox.errors import SandboxError
from sandbox.faults import DELIVERIES, FaultsInForce
from sandbox.http import Request, Response
from sandbox.simulators import _aws as aws
from sandbox.simulators._aws import AwsError, Signature
from sandbox.simulators._cloudwatch import CloudWatch
from sandbox.simulators._moto import MotoServer
from sandbox.truth.aws_bedrock import PRODUCTION, PROVIDER, RESEARCH, Account, AwsBedrockTruth

ACTIONS = {"GetMetricData": "cloudwatch:GetMetricData", "ListMetrics": "cloudwatch:ListMetrics"}
EXPIRED_PREFIX = "EXPIRED"
SESSION_PREFIX = "ASIASANDBOX"


def access_key(account: Account) -> str:
    """Return an account's access key id: obviously not a real one."""
    return f"SANDBOX{account.account_id}KEY"


def secret_key(account: Account) -> str:
    """Return an account's secret, long enough for Airflow to mask."""
    return f"sandbox-only-not-a-real-secret-{account.account_id}"


@dataclass(frozen=True)
class Session:
    """What an access key stands for."""

    account: Account
    secret: str
    token: str | None = None
    arn: str = ""


class AwsBedrock(Simulator):
    """CloudWatch and STS for two accounts."""

    name = PROVIDER
    fault_kinds: ClassVar[Mapping[str, str]] = {
        "small_pages": "at most `size` data points or metrics on a page (default 1)",
        "repeated_ids": "every result in two pieces under the same Id on one page (legal)",
        "partial_data_forever": "every page says PartialData and names a next one",
        "partial_data_without_token": "half of the data, PartialData, and no way to go on",
        "result_internal_error": "the first result has the status InternalError",
        "result_forbidden": "the first result has the status Forbidden",
        "cursor_loop": "the same next page, for ever",
        "cursor_ping_pong": "two pages that name each other as the next one",
        "misaligned_timestamps": "days that begin at 06:30",
        "non_integer_value": "tokens and a half",
        "unknown_fields": "results have fields that no document names",
    }

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        truth = frame.truth.of(PROVIDER)
        if not isinstance(truth, AwsBedrockTruth):
            raise SandboxError("The truth about aws_bedrock is not AWS's.")
        self._sessions = Sessions(RESEARCH)
        self._cloudwatch = CloudWatch(truth)
        self._moto: MotoServer | None = None
        if frame.moto_port is not None:
            moto_sessions = Sessions(PRODUCTION)
            self._moto = MotoServer(
                truth,
                PRODUCTION,
                frame.moto_port,
                lambda request, answer: serve(self, self._identify(request, moto_sessions), request, answer),
            )

    def identify(self, request: Request) -> Call:
        """Say who calls the double: the account by its key, the region by the signature."""
        return self._identify(request, self._sessions)

    def answer(self, call: Call, request: Request, faults: FaultsInForce) -> Response:
        """Answer for the account of the double."""
        session = self._sessions.of(request)
        try:
            if call.operation == "GetCallerIdentity":
                return self._sessions.caller_identity(session)
            if call.operation == "AssumeRole":
                return self._sessions.assume_role(request)
            content = json.loads(request.body or b"{}")
            if not isinstance(content, dict):
                raise AwsError("SerializationException", "The body is not a JSON object.")
            if call.operation == "ListMetrics":
                return aws.json_answer(self._cloudwatch.list_metrics(session.account, call.region, content, faults))
            if call.operation == "GetMetricData":
                return aws.json_answer(self._cloudwatch.get_metric_data(session.account, call.region, content, faults))
            raise aws.access_denied(call.account, f"cloudwatch:{call.operation or UNKNOWN}")
        except json.JSONDecodeError:
            return AwsError("SerializationException", "The body is not JSON.").as_json()
        except AwsError as error:
            return _in_its_protocol(error, call.operation)

    def refuse(self, kind: str, call: Call) -> Response:
        """Return AWS's words for a refusal."""
        return _in_its_protocol(
            {
                "access_denied": aws.access_denied(call.account, ACTIONS.get(call.operation, f"sts:{call.operation}")),
                "throttling": aws.throttled(),
                "internal_error": aws.internal_error(),
                "service_unavailable": aws.unavailable(),
                "invalid_credentials": aws.unknown_key(),
                "opt_in_region_disabled": aws.unknown_key(),
                "expired_token": aws.expired_token(),
            }[kind],
            call.operation,
        )

    def supports(self, kind: str, account: str) -> bool:
        """Whether a fault can be committed: moto's own answers are left as they are."""
        return account != PRODUCTION.account_id or kind not in DELIVERIES | self.fault_kinds.keys()

    def connections(self, base_url: str) -> list[dict[str, Any]]:
        """Return a connection per account; moto's only while moto runs."""
        accounts = [(RESEARCH, "aws_bedrock_research", base_url)]
        if self._moto:
            accounts.insert(0, (PRODUCTION, "aws_bedrock_default", self._moto.url))
        return [self._connection(account, connection_id, url) for account, connection_id, url in accounts]

    def start(self) -> None:
        """Start moto and fill it."""
        if self._moto:
            self._moto.start()

    def stop(self) -> None:
        """Stop moto."""
        if self._moto:
            self._moto.stop()

    def _identify(self, request: Request, sessions: Sessions) -> Call:
        signature = Signature.of(request)
        account, refusal = UNKNOWN, None
        operation = aws.operation_of(request) or UNKNOWN
        try:
            account = sessions.of(request).account.account_id
        except AwsError as error:
            refusal = _in_its_protocol(error, operation)
        return Call(PROVIDER, account, signature.region if signature else UNKNOWN, operation, refusal)

    def _connection(self, account: Account, connection_id: str, url: str) -> dict[str, Any]:
        today = self.frame.truth.world.clock.today()
        forgotten = [
            endpoint.model_id for endpoint in account.endpoints if endpoint.last_day is not None and not account.in_moto
        ]
        extra = {
            "region_name": account.regions[0],
            "regions": list(account.regions),
            "account_id": account.account_id,
            "account_name": account.name,
            "start_date": min(self.frame.truth.world.opened, today).isoformat(),
            "service_config": {"cloudwatch": {"endpoint_url": url}, "sts": {"endpoint_url": url}},
        }
        server = "moto's CloudWatch" if account.in_moto else "the sandbox's CloudWatch"
        return {
            "connection_id": connection_id,
            "conn_type": "aws",
            "login": access_key(account),
            "password": secret_key(account),
            "extra": extra | ({"model_ids": forgotten} if forgotten else {}),
            "description": f"AI usage sandbox: {account.name} on {server}. Not real.",
        }


SIMULATOR = AwsBedrock


def _in_its_protocol(error: AwsError, operation: str) -> Response:
    return error.as_xml() if operation in ("GetCallerIdentity", "AssumeRole") else error.as_json()


class Sessions:
    """The credentials of one account: its own key, and those handed out by ``AssumeRole``."""

    def __init__(self, account: Account) -> None:
        self._account = account
        user = f"arn:aws:iam::{account.account_id}:user/sandbox"
        self._lock = Lock()
        self._known = {access_key(account): Session(account, secret_key(account), arn=user)}

    def of(self, request: Request) -> Session:
        """
        Return the session that signed the request.

        :raises AwsError: as AWS refuses it.
        """
        signature = Signature.of(request)
        if signature is None:
            raise aws.unsigned()
        if signature.access_key.startswith(EXPIRED_PREFIX):
            raise aws.expired_token()
        with self._lock:
            session = self._known.get(signature.access_key)
        if self._account.in_moto and session is None and signature.access_key.startswith("ASIA"):
            # Handed out by moto itself, which alone knows its secret.
            return Session(self._account, "")
        if session is None or (session.token or "") != request.header("x-amz-security-token"):
            raise aws.unknown_key()
        if not signature.is_made_with(session.secret, request):
            raise aws.wrong_secret()
        return session

    def caller_identity(self, session: Session) -> Response:
        """Return whose session it is."""
        account = session.account.account_id
        return aws.sts_answer(
            "GetCallerIdentity", aws.xml_fields(Arn=session.arn, UserId=f"AIDASANDBOX{account}", Account=account)
        )

    def assume_role(self, request: Request) -> Response:
        """
        Return a session for a role of the same account.

        :raises AwsError: the role belongs to someone else, or a parameter is missing.
        """
        role, name = request.form.get("RoleArn", ""), request.form.get("RoleSessionName", "")
        account = self._account.account_id
        if not role or not name:
            raise AwsError("ValidationError", "RoleArn and RoleSessionName are required.")
        found = re.fullmatch(rf"arn:aws:iam::{account}:role/(?:.*/)?([^/]+)", role)
        if not found:
            raise AwsError(
                "AccessDenied",
                f"User: arn:aws:iam::{account}:user/sandbox is not authorized to perform: sts:AssumeRole "
                f"on resource: {role}",
            )
        arn = f"arn:aws:sts::{account}:assumed-role/{found[1]}/{name}"
        key = SESSION_PREFIX + secrets.token_hex(5).upper()
        session = Session(self._account, f"sandbox-session-{secrets.token_hex(8)}", secrets.token_hex(16), arn)
        with self._lock:
            self._known[key] = session
        expires = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        credentials = aws.xml_fields(
            AccessKeyId=key, SecretAccessKey=session.secret, SessionToken=session.token or "", Expiration=expires
        )
        user = aws.xml_fields(AssumedRoleId=f"AROASANDBOX:{name}", Arn=arn)
        return aws.sts_answer(
            "AssumeRole", f"<Credentials>{credentials}</Credentials><AssumedRoleUser>{user}</AssumedRoleUser>"
        )
