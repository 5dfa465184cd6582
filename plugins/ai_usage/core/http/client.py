"""
One client for one connection: asks, waits, asks again, and names what went wrong.

Credentials travel in headers only. The text of an exception of ``requests`` holds the whole address, query and all, so
none of them ever leaves this module, not even as the cause of an error of ours.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from ssl import SSLCertVerificationError
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import DecodeError, HTTPError, IncompleteRead, ReadTimeoutError

from ai_usage.core.contract import Journal
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    NotEntitled,
    PermissionMissing,
    RateLimited,
    ResponseInvalid,
    SourceUnavailable,
    UsageError,
)
from ai_usage.core.http.address import Address
from ai_usage.core.http.body import BodyCutError, BodyUnusableError, Scrubber, parse
from ai_usage.core.http.causes import is_caused_by
from ai_usage.core.http.deadline import DeadlineExceededError, call_within
from ai_usage.core.http.limits import Budget, Limits, full_jitter, retry_after

log = logging.getLogger("ai_usage.http")

_CHUNK = 64 * 1024
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KEEPS_METHOD = frozenset({307, 308})


@dataclass(frozen=True)
class Refusal:
    """
    An answer with an error status, for a provider to explain in its own words.

    :param status: the HTTP status.
    :param path: the path that was asked, without host and query.
    :param body: the answer as JSON; ``None`` where it is something else.
    :param headers: the answer's headers.
    """

    status: int
    path: str
    body: Any
    headers: Mapping[str, str]


Explain = Callable[[Refusal], UsageError | None]
"""Turns a refusal into the error it is, or ``None`` to leave it to the status."""


_OUTAGES: Sequence[tuple[tuple[type[Exception], ...], str]] = (
    ((requests.exceptions.ProxyError,), "could not be reached through the proxy of HTTPS_PROXY"),
    ((requests.exceptions.ChunkedEncodingError, DecodeError, IncompleteRead), "sent an answer that breaks off"),
    ((requests.exceptions.ConnectTimeout,), "could not be reached in time"),
    ((requests.Timeout, ReadTimeoutError, TimeoutError), "stopped answering"),
    ((Exception,), "could not be reached, or closed the connection"),
)


class _Question(NamedTuple):
    method: str
    url: str
    params: Mapping[str, Any] | None = None
    payload: Any = None
    expect: Sequence[str] = ()
    form: Mapping[str, str] | None = None
    text_kind: str | None = None
    attempts: int | None = None


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class _AnswerTooLargeError(Exception):
    """The body passed the size limit."""


@dataclass(frozen=True)
class _Unanswered:
    """
    One attempt that brought nothing usable.

    :param error: what to raise if it was the last attempt.
    :param wait: seconds the provider asked us to wait.
    :param attempts: how many attempts such an outcome deserves at most.
    """

    error: UsageError
    wait: float | None = None
    attempts: int | None = None


class _Headers(AuthBase):
    """Adds the credential. Being the session's own authentication, it also keeps ``.netrc`` from replacing it."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = dict(headers)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._headers)
        return request


class HttpClient:
    """
    Asks one provider for JSON on behalf of one connection.

    Proxies and certificate bundles are taken from the environment as usual (``HTTPS_PROXY``, ``NO_PROXY``,
    ``REQUESTS_CA_BUNDLE``), except on loopback addresses, which never go through a proxy. ``.netrc`` is never read,
    cookies are never kept, certificates are always verified. Use by one thread at a time.

    :param base_url: where the provider lives; see :func:`~ai_usage.core.http.checked_base_url`.
    :param connection_id: named in every error.
    :param headers: headers of every request that are no secret.
    :param secret_headers: headers that carry the credential. Their values never appear in an error or a log.
    :param secrets: further texts of which the same holds: what is sent in a form.
    :param journal: where calls are counted: every request sent, repeats included.
    :param limits: the bounds to work within.
    :param explain: the provider's own reading of error answers.
    :param budget: shared with other clients of the same account, where they must keep one pace.
    :param sleep: how to wait; only tests give another.
    """

    def __init__(
        self,
        base_url: str,
        *,
        connection_id: str,
        headers: Mapping[str, str] | None = None,
        secret_headers: Mapping[str, str] | None = None,
        secrets: Iterable[str] = (),
        journal: Journal | None = None,
        limits: Limits | None = None,
        explain: Explain | None = None,
        budget: Budget | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.connection_id = connection_id
        self.address = Address(base_url, connection_id=connection_id)
        self.journal = journal if journal is not None else Journal()
        self.limits = limits or Limits()
        self._budget = budget or Budget(self.limits.max_calls, self.limits.calls_per_minute, sleep=sleep)
        self._headers = dict(headers or {})
        self._secret_headers = self._checked(secret_headers or {})
        self._scrubber = Scrubber(
            [*secrets, *(form for value in self._secret_headers.values() for form in {value, value.rpartition(" ")[2]})]
        )
        self._explain = explain
        self._sleep = sleep
        self._session = self._new_session()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the kept-alive connections."""
        self._session.close()

    def get_json(
        self, path: str, params: Mapping[str, Any] | None = None, *, expect: Sequence[str] = ()
    ) -> dict[str, Any]:
        """
        Return the JSON object at a path below the base address.

        :param params: the query; lists become repeated parameters.
        :param expect: the keys without which the answer is not the documented one. ``{}`` must never pass for "nothing
            used".
        """
        return self._ask(_Question("GET", self.address.url(path), params, expect=expect))

    def get_text(
        self,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        kind: str = "text/plain",
        attempts: int | None = None,
    ) -> str:
        """
        Return the text at a path below the base address.

        :param kind: the content type without which it is not the documented answer but, say, a page to log in.
        :param attempts: how often it is asked for at most, where the limits' own number would be too often.
        """
        question = _Question("GET", self.address.url(path), params, text_kind=kind, attempts=attempts)
        return str(self._ask(question)["text"])

    def post_json(
        self,
        path: str,
        payload: Any,
        params: Mapping[str, Any] | None = None,
        *,
        expect: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Return the JSON object that answers a payload. Only for questions: it may be sent more than once."""
        return self._ask(_Question("POST", self.address.url(path), params, payload, expect))

    def post_form(self, path: str, form: Mapping[str, str], *, expect: Sequence[str] = ()) -> dict[str, Any]:
        """Return the JSON object that answers a form, as token endpoints take it. It may be sent more than once."""
        return self._ask(_Question("POST", self.address.url(path), expect=expect, form=form))

    def follow_json(self, link: str, *, seen_at: str = "", expect: Sequence[str] = ()) -> dict[str, Any]:
        """
        Return the JSON object behind a ``next`` link of an earlier answer, which must keep scheme, host and port.

        :param seen_at: the path of the answer that held the link, where links may be relative.
        """
        origin = self.address.url(seen_at) if seen_at else self.address.base_url + "/"
        return self._ask(_Question("GET", self.address.follow(link, seen_at=origin), expect=expect))

    def _ask(self, question: _Question) -> dict[str, Any]:
        """Put one question until it is answered or patience ends."""
        give_up_at = time.monotonic() + self.limits.patience
        attempt = 0
        while True:
            attempt += 1
            outcome = self._attempt(question, give_up_at, is_repeat=attempt > 1)
            if not isinstance(outcome, _Unanswered):
                return outcome
            wait = self._wait_before_next(outcome, attempt, give_up_at)
            if wait is None or attempt == question.attempts:
                raise self._named(outcome.error)
            log.info("%s: %s Asking again in %.1f s.", self.connection_id, outcome.error.happened, wait)
            self._sleep(wait)

    def _wait_before_next(self, outcome: _Unanswered, attempt: int, give_up_at: float) -> float | None:
        """Return the seconds to wait before the next attempt, or ``None`` if there should be none."""
        if attempt >= min(outcome.attempts or self.limits.attempts, self.limits.attempts):
            return None
        wait = full_jitter(attempt)
        if outcome.wait is not None:
            if outcome.wait > self.limits.longest_wait:
                return None
            # A little more than asked for: a worker that wakes a hair early is only sent away again.
            wait = outcome.wait + min(wait, 1.0)
        return wait if time.monotonic() + wait < give_up_at else None

    def _attempt(self, question: _Question, give_up_at: float, *, is_repeat: bool) -> dict[str, Any] | _Unanswered:
        """Put a question once, following redirects that stay on the same host."""
        url = question.url
        for _ in range(self.limits.max_redirects + 1):
            answer = self._send(question, give_up_at, is_repeat=is_repeat)
            if isinstance(answer, _Unanswered):
                return answer
            if answer.status not in _REDIRECTS:
                return self._read(answer, question)
            if question.method != "GET" and answer.status not in _KEEPS_METHOD:
                break
            target = self.address.follow(answer.headers.get("Location", "//"), seen_at=answer.url)
            question = question._replace(url=target, params=None)
        raise self._named(self._leads_nowhere(url))

    def _leads_nowhere(self, url: str) -> ResponseInvalid:
        return ResponseInvalid(
            f"The provider answered {self._path(url)} with redirects that lead nowhere.",
            action="Check the connection's address; if it is right, report this.",
        )

    def _send(self, question: _Question, give_up_at: float, *, is_repeat: bool) -> _Answer | _Unanswered:
        """Send one request and read its whole answer, or say why there is none."""
        url = question.url
        if not self._budget.take():
            raise self._named(
                ResponseInvalid(
                    f"{self._path(url)} did not come to an end within {self.limits.max_calls} requests.",
                    action="Ask for fewer days at once; if it stays, report this.",
                )
            )
        self.journal.calls += 1
        self.journal.retries += is_repeat
        seconds = max(0.1, min(self.limits.answer_timeout, give_up_at - time.monotonic()))
        try:
            return call_within(seconds, self._exchange, self._session, question, seconds)
        except DeadlineExceededError:
            # The abandoned thread may still hold the session's connection.
            self._session = self._new_session()
            return self._unavailable(url, f"took longer than {seconds:.0f} s to answer")
        except _AnswerTooLargeError:
            mebibytes = self.limits.max_body_bytes / (1024 * 1024)
            failure: UsageError = ResponseInvalid(
                f"The answer to {self._path(url)} is larger than {mebibytes:.0f} MiB.",
                action="Ask for fewer days at once; if it stays, report this.",
            )
        except (requests.RequestException, HTTPError, OSError) as error:
            unanswered = self._unreachable(url, error)
            if isinstance(unanswered, _Unanswered):
                return unanswered
            failure = unanswered
        except ValueError:
            # requests looks at where a redirect leads even when it is not to follow it, and stumbles over nonsense.
            failure = self._leads_nowhere(url)
        raise self._named(failure)

    def _exchange(self, session: requests.Session, question: _Question, seconds: float) -> _Answer:
        """Send one request and read the answer as it comes, so that neither size nor time can run away."""
        read_until = time.monotonic() + seconds
        with session.request(
            question.method,
            question.url,
            params=question.params,
            headers={"Accept": question.text_kind} if question.text_kind else None,
            data=question.form,
            json=question.payload,
            stream=True,
            allow_redirects=False,
            timeout=(min(self.limits.connect_timeout, seconds), min(self.limits.read_timeout, seconds)),
        ) as response:
            body = bytearray()
            while chunk := response.raw.read1(_CHUNK, decode_content=True):
                body += chunk
                self.journal.bytes_received += len(chunk)
                if len(body) > self.limits.max_body_bytes:
                    raise _AnswerTooLargeError
                if time.monotonic() > read_until:
                    raise requests.Timeout
            if response.headers.get("Content-Encoding") and not body and response.raw.tell():
                # Bytes came, nothing was in them: a compressed stream that broke off in its header.
                raise DecodeError
            if response.raw.length_remaining:
                raise IncompleteRead(len(body), response.raw.length_remaining)
            return _Answer(response.status_code, response.headers, self._scrubber.clean_body(bytes(body)), response.url)

    def _read(self, answer: _Answer, question: _Question) -> dict[str, Any] | _Unanswered:
        """Return the JSON object of an answer (a text is one with a single entry), or why there is none."""
        if answer.status not in {200, 201, 203}:
            return self._refused(answer)
        expect = question.expect
        kind = answer.headers.get("Content-Type", "no content type").partition(";")[0].strip().lower()
        if question.text_kind == kind:
            return {"text": answer.body.decode("utf-8-sig", errors="replace")}
        is_json = kind.endswith("json") or answer.body.lstrip()[:1] in b"{["
        if question.text_kind or not answer.body.strip() or not is_json:
            return self._not_documented(answer, f"it is {kind}, beginning {self._scrubber.excerpt(answer.body)!r}")
        try:
            document = parse(answer.body, max_depth=self.limits.max_depth)
        except BodyCutError:
            return self._unavailable(answer.url, "sent an answer that breaks off")
        except BodyUnusableError as error:
            problem = str(error)
        else:
            if isinstance(document, dict) and all(key in document for key in expect) and document:
                return document
            missing = [key for key in expect if not isinstance(document, dict) or key not in document]
            return self._not_documented(answer, f"{' and '.join(missing) or 'everything'} is missing from it")
        raise self._not_documented(answer, problem).error

    def _refused(self, answer: _Answer) -> _Unanswered:
        """Return an error answer as one worth repeating, or raise it."""
        path = self._path(answer.url)
        wait = retry_after(answer.headers.get("Retry-After"))
        if answer.status == 429:
            self.journal.throttled += 1
        error = self._explained(answer, path) or _error_of_status(answer.status, path)
        if answer.status in _TRY_AGAIN and not error.is_permanent:
            if isinstance(error, RateLimited):
                # Some providers say elsewhere than in the standard header how long to wait.
                wait = error.retry_after = wait if error.retry_after is None else error.retry_after
            return _Unanswered(error, wait=wait)
        raise self._named(error)

    def _explained(self, answer: _Answer, path: str) -> UsageError | None:
        """Return the provider's own reading of an error answer, where it has one."""
        if self._explain is None:
            return None
        try:
            body = parse(answer.body, max_depth=self.limits.max_depth)
        except (BodyCutError, BodyUnusableError):
            body = None
        return self._explain(Refusal(answer.status, path, body, answer.headers))

    def _not_documented(self, answer: _Answer, problem: str) -> _Unanswered:
        return _Unanswered(
            self._named(
                ResponseInvalid(
                    f"The answer to {self._path(answer.url)} (HTTP {answer.status}) is not as documented: {problem}.",
                    action="Check the connection's address; if it is right, report this.",
                )
            ),
            # One repeat: a login page or an empty body may come from a proxy that was restarting.
            attempts=2,
        )

    def _unavailable(self, url: str, problem: str) -> _Unanswered:
        host = urlsplit(url).hostname
        return _Unanswered(
            SourceUnavailable(
                f"{host} {problem} ({self._path(url)}).", action="Nothing to do at once: the next run asks again."
            )
        )

    def _unreachable(self, url: str, error: Exception) -> _Unanswered | UsageError:
        """Name what kept a request from being answered."""
        host = urlsplit(url).hostname
        if is_caused_by(error, SSLCertVerificationError):
            return ConfigurationInvalid(
                f"The certificate of {host} could not be verified.",
                action="Check the address; behind an intercepting proxy, set REQUESTS_CA_BUNDLE to its certificate.",
            )
        if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
            return ConfigurationInvalid(
                f"{host} cannot be called.", action="Check the connection's address and the proxy settings."
            )
        problem = next(problem for kinds, problem in _OUTAGES if isinstance(error, kinds))
        return self._unavailable(url, problem)

    def _named(self, error: UsageError) -> UsageError:
        """Name the connection and take every form of the credential out of the texts."""
        error.happened = self._scrubber.clean(error.happened)
        error.action = self._scrubber.clean(error.action)
        error.args = (error.happened,)
        return error.at(self.connection_id)

    def _path(self, url: str) -> str:
        """Return what may be shown of an address: its path."""
        return self._scrubber.clean(urlsplit(url).path or "/")

    def _checked(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers if they can be sent at all; ``requests`` would put a bad value into its exception."""
        for name, value in headers.items():
            if not value.strip() or not value.isascii() or not value.isprintable():
                raise ConfigurationInvalid(
                    f"The credential for the header {name} is empty, or holds a line break or another character that "
                    "no key has.",
                    action="Paste the key again, without spaces or line breaks around it.",
                    connection_id=self.connection_id,
                )
        return {name: value.strip() for name, value in headers.items()}

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = not self.address.is_loopback
        session.auth = _Headers(self._secret_headers)
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.headers.update(
            {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "ai-usage-elt", **self._headers}
        )
        return session


_NEXT_RUN = "Nothing to do at once: the next run asks again."
_STATUSES: Mapping[int, tuple[type[UsageError], str, str]] = {
    401: (
        CredentialRejected,
        "The provider does not accept the credential (HTTP 401 from {path}).",
        "Make a new key and put it into the connection.",
    ),
    402: (
        NotEntitled,
        "The account's plan does not include {path} (HTTP 402).",
        "Buy the plan, or leave the source out.",
    ),
    404: (
        ConfigurationInvalid,
        "There is nothing at {path} (HTTP 404).",
        "Check the address, and the organisation or account id in the connection.",
    ),
    407: (
        ConfigurationInvalid,
        "The proxy asks for a log-in (HTTP 407).",
        "Check HTTPS_PROXY where Airflow's workers run.",
    ),
    410: (
        ResponseInvalid,
        "The provider no longer answers at {path} (HTTP 410).",
        "The provider changed its addresses: report this.",
    ),
    429: (
        RateLimited,
        "The provider asked for fewer requests (HTTP 429 from {path}).",
        f"{_NEXT_RUN} If it stays, read the source less often.",
    ),
}


def _error_of_status(status: int, path: str) -> UsageError:
    """Return what an error status means where the provider says nothing better."""
    if status == 403:
        return PermissionMissing(
            f"The credential may not read {path} (HTTP 403).",
            permission=f"read access to {path}",
            action="Grant the key read access to usage, or use a key that has it.",
        )
    if status in _STATUSES:
        kind, happened, action = _STATUSES[status]
        return kind(happened.format(path=path), action=action)
    if status >= 500 or status in _TRY_AGAIN:
        return SourceUnavailable(f"The provider could not answer {path} (HTTP {status}).", action=_NEXT_RUN)
    return ResponseInvalid(
        f"The provider refused the question at {path} (HTTP {status}).",
        action="The provider changed what it accepts: report this.",
    )
