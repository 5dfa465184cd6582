"""What goes wrong between here and BigQuery, named for what the reader does next, without repeating Google's own texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ssl import SSLCertVerificationError
from typing import Any, NamedTuple

from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    PermissionMissing,
    RateLimited,
    ResponseInvalid,
    SourceUnavailable,
    UsageError,
)
from ai_usage.core.http import DeadlineExceededError, is_caused_by

_PERMISSION = re.compile(r"\bbigquery\.[a-zA-Z]+\.[a-zA-Z]+\b")
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NEXT_RUN = "Nothing to do at once: the next run asks again."
_NEW_KEY = "Make a new key for the service account in Google Cloud (IAM, Service Accounts, Keys) and put it in."


def named(error: Exception, what: str, job_project: str) -> UsageError:
    """
    Return our own error for one that a question ended with.

    :param what: what was asked: a dataset or a table.
    :param job_project: the project that queries are run and billed in.
    """
    # Imported here, because parsing a DAG must not pay for Google's libraries.
    from google.api_core import exceptions as api  # noqa: PLC0415
    from google.auth import exceptions as auth  # noqa: PLC0415

    if isinstance(error, api.RetryError) and isinstance(error.cause, Exception):
        error = error.cause
    if isinstance(error, UsageError):
        return error
    if isinstance(error, api.GoogleAPICallError):
        return _refused(error, what, job_project)
    if isinstance(error, auth.RefreshError) and not error.retryable:
        return _without_token(error)
    return _unanswered(error, what, isinstance(error, auth.GoogleAuthError))


def _unanswered(error: Exception, what: str, is_about_token: bool) -> UsageError:
    """Return what it means that there is no answer, or none that can be read."""
    name = type(error).__name__
    # requests' own error for a body that is not JSON is an OSError, too.
    is_outage = isinstance(error, OSError) and not isinstance(error, ValueError)
    if is_caused_by(error, SSLCertVerificationError):
        return ConfigurationInvalid(
            "The certificate of BigQuery could not be verified.",
            action="Behind an intercepting proxy, make its certificate known to Python (REQUESTS_CA_BUNDLE).",
        )
    if isinstance(error, DeadlineExceededError):
        return SourceUnavailable(f"BigQuery took too long to answer about {what}.", action=_NEXT_RUN)
    if is_outage or is_about_token:
        return SourceUnavailable(f"Google gave no whole answer about {what} ({name}).", action=_NEXT_RUN)
    return ResponseInvalid(
        f"The answer about {what} cannot be read ({name}); nothing was stored.",
        action="Check for a proxy between Airflow and Google; if there is none, report this.",
    )


def _without_token(error: Exception) -> UsageError:
    """Tell the ways apart in which Google refuses to give a token."""
    words = str(error).lower()
    if "account not found" in words or "disabled" in words:
        return CredentialRejected(
            "Google does not know the service account any more: it was deleted or disabled.",
            action="Restore it, or put in a key of another service account.",
        )
    if "short-lived" in words or "reasonable timeframe" in words:
        return CredentialRejected(
            "Google refuses the key because this machine's clock is wrong.", action="Set the clock right."
        )
    if "impersonat" in words or "getaccesstoken" in words:
        return PermissionMissing(
            "The identity may not act as the service account of impersonation_chain.",
            permission="iam.serviceAccounts.getAccessToken",
            action="Grant it Service Account Token Creator on that service account.",
        )
    return CredentialRejected("Google does not accept the key: it is wrong, deleted or disabled.", action=_NEW_KEY)


class _Meaning(NamedTuple):
    """What some refusals mean; ``{what}`` and ``{project}`` are filled in. One of the three has to fit."""

    reasons: frozenset[str]
    statuses: frozenset[int]
    words: str
    kind: type[UsageError]
    happened: str
    action: str


_NONE: frozenset[int] = frozenset()
_MEANINGS = (
    _Meaning(
        frozenset({"accessNotConfigured", "SERVICE_DISABLED"}),
        _NONE,
        "has not been used in project",
        ConfigurationInvalid,
        "The BigQuery API is not enabled in {project}.",
        "Enable it in Google Cloud (APIs and services), or name another job_project.",
    ),
    _Meaning(
        frozenset({"billingNotEnabled"}),
        _NONE,
        "",
        ConfigurationInvalid,
        "{project} has no billing, so no query can run in it.",
        "Link a billing account to it, or name another job_project.",
    ),
    _Meaning(
        frozenset({"bytesBilledLimitExceeded"}),
        _NONE,
        "",
        ConfigurationInvalid,
        "The query would scan more than its cap, although the dry run said otherwise; BigQuery stopped it before it cost "
        "anything.",
        "Raise max_gigabytes in the connection, or ask for fewer days.",
    ),
    _Meaning(
        frozenset({"quotaExceeded"}),
        _NONE,
        "",
        RateLimited,
        "The BigQuery quota of {project} is used up for today.",
        "Nothing to do at once: it comes back with the next day. Or raise the quota of bytes scanned per day.",
    ),
    _Meaning(
        frozenset({"rateLimitExceeded"}),
        frozenset({429}),
        "",
        RateLimited,
        "BigQuery asked for fewer calls.",
        f"{_NEXT_RUN} If it stays, find out what else uses BigQuery in {{project}}.",
    ),
    _Meaning(
        frozenset({"authError"}),
        frozenset({401}),
        "",
        CredentialRejected,
        "Google does not accept the access token (HTTP 401).",
        _NEW_KEY,
    ),
    _Meaning(
        frozenset({"notFound"}),
        frozenset({404}),
        "",
        ConfigurationInvalid,
        "There is no {what}, or not in the location that was asked.",
        "Correct dataset, table and location in the connection. A new export takes hours to appear.",
    ),
    _Meaning(
        frozenset({"backendError", "internalError", "badGateway"}),
        frozenset(range(500, 600)),
        "",
        SourceUnavailable,
        "BigQuery could not answer about {what} (HTTP {status}).",
        _NEXT_RUN,
    ),
)
"""In this order: the reason decides before the status, which BigQuery does not choose with care."""


def _refused(error: Any, what: str, job_project: str) -> UsageError:
    """Return what an error answer means for the reader."""
    reason, message, status = _reason(error), str(error.message or ""), int(error.code or 0)
    if reason == "vpcServiceControls" or "organization's policy" in message:
        return PermissionMissing(
            f"VPC Service Controls keep this machine from {what}.",
            permission="VPC Service Controls",
            action="Let the service account in by an access level or an ingress rule of the perimeter.",
        )
    meaning = next(
        (one for one in _MEANINGS if reason in one.reasons or (one.words and one.words in message)), None
    ) or next((one for one in _MEANINGS if not reason and status in one.statuses), None)
    if meaning is None and (reason == "accessDenied" or status == 403):
        return _denied(message, what, job_project)
    meaning = meaning or next((one for one in _MEANINGS if status in one.statuses), None)
    if meaning is None:
        return ResponseInvalid(
            f"BigQuery refused the question about {what} (HTTP {status}, {reason or 'no reason'}); nothing was stored.",
            action="Report this, with the columns of the export's table.",
        )
    happened = meaning.happened.format(what=what, project=job_project, status=status)
    action = meaning.action.format(project=job_project)
    if meaning.kind is RateLimited:
        return RateLimited(happened, action=action, retry_after=_retry_after(error))
    return meaning.kind(happened, action=action)


def _denied(message: str, what: str, job_project: str) -> PermissionMissing:
    match = _PERMISSION.search(message)
    permission = match[0] if match else "bigquery.tables.getData"
    if permission == "bigquery.jobs.create":
        return PermissionMissing(
            f"The service account may not run queries in {job_project}.",
            permission=permission,
            action=f"Grant it BigQuery Job User (roles/bigquery.jobUser) on the project {job_project}, or name another "
            "job_project.",
        )
    return PermissionMissing(
        f"The service account may not read the {what} ({permission}), or there is no such thing.",
        permission=permission,
        action="Grant it BigQuery Data Viewer (roles/bigquery.dataViewer) on the dataset, and check the names.",
    )


def _reason(error: Any) -> str:
    """Return BigQuery's word for what is wrong, if it looks like one."""
    details = [one for one in (error.errors or ()) if isinstance(one, Mapping)]
    reason = str(details[0].get("reason", "")) if details else ""
    return reason if _CODE.fullmatch(reason) else ""


def _retry_after(error: Any) -> float | None:
    text = str(getattr(error.response, "headers", {}).get("Retry-After", ""))
    return float(text) if text.isdecimal() else None
