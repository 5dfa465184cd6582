"""
What every AWS API shares: signatures, error shapes, and STS.

CloudWatch speaks JSON 1.0 in "query-compatible" mode: an error carries its modern name in the body and its short legacy
name in the header ``x-amzn-query-error``, and SDKs show the short one. STS still speaks XML.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4
from xml.sax.saxutils import escape

from sandbox.http import Request, Response

JSON = "application/x-amz-json-1.0"
STS_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<day>\d{8})/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request, ?"
    r"SignedHeaders=(?P<headers>[^,]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)


class AwsError(Exception):
    """
    A refusal in AWS's words.

    :param code: the short legacy name, which SDKs show.
    :param modern: the name in the body of a JSON answer.
    """

    def __init__(self, code: str, message: str, status: int = 400, modern: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.modern = modern or code

    @property
    def fault(self) -> str:
        """Whose fault it is, in AWS's words."""
        return "Receiver" if self.status >= 500 else "Sender"

    def as_json(self) -> Response:
        """Return the error as CloudWatch sends it."""
        body = {"__type": f"com.amazon.coral.service#{self.modern}", "message": self.message}
        headers = {"Content-Type": JSON, "x-amzn-query-error": f"{self.code};{self.fault}", **_request_id()}
        return Response(self.status, json.dumps(body).encode(), headers)

    def as_xml(self) -> Response:
        """Return the error as STS sends it."""
        # STS answers "who are you?" questions with 403 where CloudWatch says 400.
        status = 403 if self.status == 400 and self.code in _ABOUT_CREDENTIALS else self.status
        body = (
            f'<ErrorResponse xmlns="{STS_NAMESPACE}"><Error><Type>{self.fault}</Type><Code>{self.code}</Code>'
            f"<Message>{escape(self.message)}</Message></Error><RequestId>{uuid4()}</RequestId></ErrorResponse>"
        )
        return Response(status, body.encode(), {"Content-Type": "text/xml", **_request_id()})


_ABOUT_CREDENTIALS = frozenset(
    {"AccessDenied", "InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "MissingAuthenticationToken"}
)


def access_denied(account: str, action: str) -> AwsError:
    """Return AWS's answer to a principal without the permission."""
    message = (
        f"User: arn:aws:iam::{account}:user/sandbox is not authorized to perform: {action} "
        f"because no identity-based policy allows the {action} action"
    )
    return AwsError("AccessDenied", message, modern="AccessDeniedException")


def unknown_key() -> AwsError:
    """Return AWS's answer to a key that it does not know, or does not know in this region."""
    return AwsError(
        "InvalidClientTokenId",
        "The security token included in the request is invalid.",
        modern="UnrecognizedClientException",
    )


def wrong_secret() -> AwsError:
    """Return AWS's answer to a known key with another secret."""
    return AwsError(
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. "
        "Check your AWS Secret Access Key and signing method.",
        modern="InvalidSignatureException",
    )


def expired_token() -> AwsError:
    """Return AWS's answer to a session that has ended."""
    return AwsError(
        "ExpiredToken", "The security token included in the request is expired", modern="ExpiredTokenException"
    )


def throttled() -> AwsError:
    """Return AWS's answer to too many requests."""
    return AwsError("Throttling", "Rate exceeded", modern="ThrottlingException")


def internal_error() -> AwsError:
    """Return AWS's answer when it fails itself."""
    return AwsError("InternalServiceError", "An internal error occurred.", 500, modern="InternalServiceFault")


def unavailable() -> AwsError:
    """Return AWS's answer when it is not there."""
    return AwsError("ServiceUnavailable", "The service is unavailable. Please retry.", 503)


def unsigned() -> AwsError:
    """Return AWS's answer to a request without a signature."""
    return AwsError("MissingAuthenticationToken", "Request is missing Authentication Token", 403)


@dataclass(frozen=True)
class Signature:
    """What a request's ``Authorization`` header says."""

    access_key: str
    day: str
    region: str
    service: str
    headers: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, request: Request) -> Signature | None:
        """Return the signature of a request, or ``None`` if it has none that can be read."""
        found = _AUTHORIZATION.fullmatch(request.header("authorization"))
        if not found:
            return None
        key, day, region, service, headers, digest = found.groups()
        return cls(key, day, region, service, tuple(headers.split(";")), digest)

    def is_made_with(self, secret: str, request: Request) -> bool:
        """Whether the request was signed with this secret, and arrived as it was signed."""
        path, _, query = request.target.partition("?")
        canonical = "\n".join(
            (
                request.method,
                path,
                "&".join(sorted(query.split("&"))),
                *(f"{name}:{' '.join(request.header(name).split())}" for name in self.headers),
                "",
                ";".join(self.headers),
                hashlib.sha256(request.body).hexdigest(),
            )
        )
        scope = f"{self.day}/{self.region}/{self.service}/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{request.header('x-amz-date')}\n{scope}\n{digest}"
        key = f"AWS4{secret}".encode()
        for part in (self.day, self.region, self.service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), self.digest)


def operation_of(request: Request) -> str:
    """Return what is asked for: from the target header of the JSON protocol or the form of the query protocol."""
    target = request.header("x-amz-target")
    return target.rpartition(".")[2] if target else request.form.get("Action", "")


def json_answer(content: Mapping[str, Any]) -> Response:
    """Return a success as CloudWatch sends it."""
    return Response(200, json.dumps(content).encode(), {"Content-Type": JSON, **_request_id()})


def sts_answer(operation: str, result: str) -> Response:
    """Return a success as STS sends it; ``result`` is XML."""
    body = (
        f'<{operation}Response xmlns="{STS_NAMESPACE}"><{operation}Result>{result}</{operation}Result>'
        f"<ResponseMetadata><RequestId>{uuid4()}</RequestId></ResponseMetadata></{operation}Response>"
    )
    return Response(200, body.encode(), {"Content-Type": "text/xml", **_request_id()})


def xml_fields(**fields: str) -> str:
    """Return elements with text."""
    return "".join(f"<{name}>{escape(text)}</{name}>" for name, text in fields.items())


def _request_id() -> dict[str, str]:
    return {"x-amzn-RequestId": str(uuid4())}
