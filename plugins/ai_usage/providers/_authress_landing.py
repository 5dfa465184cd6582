"""
Where a customer lands the audit stream: a bucket of S3 or of Google Cloud Storage, or a folder.

Every landing lists names in their order and hands out whole objects, or raises an error that says what to do.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from botocore import exceptions as aws
from google.api_core import exceptions as google
from google.auth import exceptions as google_auth

from ai_usage.core.contract import Journal
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    PermissionMissing,
    RateLimited,
    ResponseInvalid,
    SourceUnavailable,
    UsageError,
)
from ai_usage.core.http import DeadlineExceededError, call_within, full_jitter
from ai_usage.core.slices import ONE_DAY, Window
from ai_usage.providers._authress import LATE

FLAT = "none"
"""What ``day_folders`` says where the folders have no days."""
DAY_FOLDERS = "{year}/{month}/{day}"
"""Firehose's own way, and the default."""
LARGEST_OBJECT = 256 * 1024 * 1024
NAMES_PER_PAGE = 1000
ATTEMPTS = 3
"""How often a question is put whose answer was not whole; the libraries' own repeats come on top."""
DEADLINE = 300.0
"""Seconds for one call with all the repeats of the libraries."""

_NEXT_RUN = "Nothing to do at once: the next run asks again."
_PARTS = ("{year}", "{month}", "{day}")
_NO_STREAM = re.compile(r"(?:^|/)[._]|(?:^|/)processing-failed/|error", re.IGNORECASE)
"""What lands beside a stream: marks of tools, and what Firehose could not deliver."""

T = TypeVar("T")
Count = Callable[..., None]
"""Is called with every answer of a bucket."""


class Entry(NamedTuple):
    """
    One object.

    :param name: below the landing's root.
    :param size: bytes; ``None`` where it may still grow.
    :param version: what must still be there when it is read.
    :param modified_on: the UTC day of its last change.
    :param landed_on: the day of its folder, where folders have days.
    """

    name: str
    size: int | None
    version: Any
    modified_on: date
    landed_on: date | None = None


class Layout:
    """
    How names begin.

    :param text: fixed text with ``{year}``, ``{month}`` and ``{day}`` in this order; ``none`` if the days are nowhere.
    :raises ConfigurationInvalid: if it is something else: only so are names in the order of days.
    """

    def __init__(self, text: str = DAY_FOLDERS) -> None:
        self._text = None if text == FLAT else text.lstrip("/")
        self._pattern: re.Pattern[str] | None = None
        if self._text is None:
            return
        pieces = re.split(r"(\{[^{}]*\})", self._text)
        if tuple(pieces[1::2]) != _PARTS or not all(re.fullmatch(r"[^{}]{0,60}", piece) for piece in pieces[::2]):
            raise ConfigurationInvalid(
                f"day_folders is {text[:60]!r}, which does not say where the day stands.",
                action="Write it like {year}/{month}/{day} or year={year}/month={month}/day={day}; "
                f"{FLAT} if folders have no days.",
            )
        digits = dict(zip(_PARTS, (r"(\d{4})", r"(\d\d)", r"(\d\d)"), strict=True))
        self._pattern = re.compile("".join(digits.get(piece) or re.escape(piece) for piece in pieces))

    @property
    def is_flat(self) -> bool:
        """Whether names say nothing about days."""
        return self._pattern is None

    def name_of(self, day: date) -> str:
        """Return what the names of a day begin with."""
        assert self._text is not None
        texts = (f"{day.year:04d}", f"{day.month:02d}", f"{day.day:02d}")
        name = self._text
        for part, text in zip(_PARTS, texts, strict=True):
            name = name.replace(part, text)
        return name

    def day_of(self, name: str) -> date | None:
        """Return the day of a name, if it has one."""
        found = self._pattern.match(name) if self._pattern else None
        try:
            return date(*map(int, found.groups())) if found else None
        except ValueError:
            return None


class Landing(ABC):
    """
    A place with objects.

    :param root: the place as people write it, without a slash at its end.
    """

    permission_to_list: ClassVar[str]
    permission_to_read: ClassVar[str]

    def __init__(
        self,
        root: str,
        layout: Layout,
        *,
        journal: Journal | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.root = root
        self.layout = layout
        self.journal = journal if journal is not None else Journal()
        self.deadline = DEADLINE
        self._sleep = sleep

    def first(self) -> Entry | None:
        """Return the oldest object, if there is any."""
        if self.layout.is_flat:
            return min(self.since(None), key=lambda entry: entry.modified_on, default=None)
        return next(self.since(None), None)

    def since(self, day: date | None, until: date | None = None) -> Iterator[Entry]:
        """
        Yield the objects that may hold what landed from one day to another, both included, in the order of their names.

        Where names say nothing of days, what was last changed before the first day is left out: it cannot hold anything
        of it.
        """
        is_flat = self.layout.is_flat
        after = None if is_flat or day is None else self.layout.name_of(day)
        before = None if is_flat or until is None else self.layout.name_of(until + ONE_DAY)
        for entry in self._list(after, before):
            landed_on = self.layout.day_of(entry.name)
            belongs = (day is None or entry.modified_on >= day) if is_flat else landed_on is not None
            if belongs and entry.size != 0 and not _NO_STREAM.search(entry.name):
                yield entry._replace(landed_on=landed_on)

    def holding(self, window: Window, today: date) -> Iterator[Entry]:
        """Yield the objects that may hold events of the window: those that landed late too, and in any time zone."""
        return self.since(window.first - ONE_DAY, min(window.last + LATE, today + ONE_DAY))

    def shown(self, entry: Entry) -> str:
        """Return an object as errors name it."""
        return f"{self.root}/{entry.name}"

    def read(self, entry: Entry) -> bytes:
        """
        Return an object, whole.

        :raises SourceUnavailable: if it cannot be had whole, or is another one by now.
        """
        if (entry.size or 0) > LARGEST_OBJECT:
            raise ResponseInvalid(
                f"{self.shown(entry)} is larger than {LARGEST_OBJECT // 1024**2} MiB.",
                action="Have smaller objects written (Firehose: buffer size), or take it out of the folder.",
            )
        content = self._call(self.permission_to_read, self._whole, entry)
        self.journal.bytes_received += len(content)
        return content

    def _whole(self, entry: Entry) -> bytes:
        content = self._read(entry)
        if entry.size not in (None, len(content)):
            raise SourceUnavailable(
                f"{self.shown(entry)} is not what was listed: {len(content)} in place of {entry.size} bytes.",
                action=_NEXT_RUN,
            )
        return content

    def _call(self, permission: str, call: Callable[..., T], *args: Any) -> T:
        """Return what a call returns; its error by our names, if it stays."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._call_once(permission, call, *args)
            except (SourceUnavailable, ResponseInvalid) as error:
                # A proxy that was restarting, or an answer that broke off: a repeat helps with both.
                failure = error
            if attempt < ATTEMPTS:
                self._sleep(full_jitter(attempt))
        raise failure

    def _call_once(self, permission: str, call: Callable[..., T], *args: Any) -> T:
        try:
            return call_within(self.deadline, call, *args)
        except UsageError:
            raise
        except DeadlineExceededError:
            failure: UsageError = SourceUnavailable(
                f"{self.root} took longer than {self.deadline:.0f} s to answer.", action=_NEXT_RUN
            )
        except Exception as error:  # noqa: BLE001 - the libraries fail in many ways on what they cannot read
            failure = self._named(error, permission)
        # Raised out here, it has no trace of the library's own, whose texts may hold more than may be shown.
        raise failure

    @abstractmethod
    def _list(self, after: str | None, before: str | None) -> Iterator[Entry]:
        """Yield objects by name, from a name (or sooner) to another one (or later)."""

    @abstractmethod
    def _read(self, entry: Entry) -> bytes:
        """Return the bytes of an object."""

    @abstractmethod
    def _named(self, error: Exception, permission: str) -> UsageError:
        """Return our own error for one of the library's."""

    # ---------------------------------------------------------------- the errors that all have

    def _denied(self, permission: str, who: str) -> UsageError:
        return PermissionMissing(
            f"{who} may not do {permission} at {self.root}.", permission=permission, action=f"Grant it {permission}."
        )

    def _absent(self) -> UsageError:
        return ConfigurationInvalid(f"There is no {self.root}.", action="Correct the location in the connection.")

    def _changed(self) -> UsageError:
        return SourceUnavailable(f"An object of {self.root} changed while it was read.", action=_NEXT_RUN)

    def _unavailable(self, problem: str = "could not be reached, or broke off its answer") -> UsageError:
        return SourceUnavailable(f"{self.root} {problem}.", action=_NEXT_RUN)

    def _foreign(self) -> UsageError:
        return ResponseInvalid(
            f"The list of {self.root} is not the answer of a bucket.",
            action="Check for a proxy, or a wrong address in the storage connection; if there is none, report this.",
        )

    def _endless(self) -> UsageError:
        return ResponseInvalid(
            f"The list of {self.root} does not come to an end.", action="Run again later; if it stays, report this."
        )

    def _throttled(self) -> UsageError:
        self.journal.throttled += 1
        return RateLimited(f"{self.root} asked for fewer calls.", action=_NEXT_RUN)

    def _rejected(self, connection: str) -> UsageError:
        return CredentialRejected(
            f"The credential of the connection {connection} is not accepted at {self.root}.",
            action=f"Put a new one into {connection}.",
        )


class Folder(Landing):
    """
    A folder of the machine that Airflow's workers run on, for trials.

    Files that end in ``.json``, ``.jsonl``, ``.ndjson`` or ``.log``, perhaps with ``.gz`` behind it, and no links.
    """

    permission_to_list, permission_to_read = "listing of files", "reading of files"
    _STREAM = re.compile(r".*\.(?:json|jsonl|ndjson|log)(?:\.gz)?", re.IGNORECASE)

    def _list(self, after: str | None, before: str | None) -> Iterator[Entry]:
        names = self._call(self.permission_to_list, self._names)
        yield from (
            entry for entry in names if (not after or entry.name > after) and (not before or entry.name < before)
        )

    def _names(self) -> list[Entry]:
        root = Path(self.root)
        self.journal.calls += 1
        if not root.is_dir():
            raise self._absent()
        found = []
        for path in root.rglob("*"):
            if self._STREAM.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                modified_on = date.fromtimestamp(path.stat().st_mtime)
                found.append(Entry(path.relative_to(root).as_posix(), None, None, modified_on))
        return sorted(found)

    def _read(self, entry: Entry) -> bytes:
        path = Path(self.root, entry.name)
        self.journal.calls += 1
        if path.stat().st_size > LARGEST_OBJECT:
            raise ResponseInvalid(f"{path} is larger than 256 MiB.", action="Write smaller files.")
        return path.read_bytes()

    def _named(self, error: Exception, permission: str) -> UsageError:
        if isinstance(error, PermissionError):
            return self._denied(permission, "The user that Airflow runs as")
        if isinstance(error, FileNotFoundError):
            return self._changed()
        return self._unavailable("cannot be read")


class S3(Landing):
    """
    A bucket of S3.

    :param client: makes the boto3 client; assuming a role, that may call AWS.
    :param held_by: the connection that holds the credential.
    """

    permission_to_list, permission_to_read = "s3:ListBucket", "s3:GetObject"
    _REJECTED = frozenset(
        {
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "ExpiredToken",
            "InvalidToken",
            "InvalidClientTokenId",
            "UnrecognizedClientException",
            "TokenRefreshRequired",
            "RequestTimeTooSkewed",
        }
    )

    def __init__(self, root: str, layout: Layout, client: Callable[[], Any], held_by: str, **more: Any) -> None:
        super().__init__(root, layout, **more)
        self._client = client
        self._held_by = held_by
        self._bucket, self._prefix = _bucket_and_prefix(root)

    def _list(self, after: str | None, before: str | None) -> Iterator[Entry]:
        question = {"Bucket": self._bucket, "Prefix": self._prefix, "MaxKeys": NAMES_PER_PAGE}
        if after is not None:
            question["StartAfter"] = self._prefix + after
        seen: set[str] = set()
        while True:
            page = self._call(self.permission_to_list, self._page, dict(question))
            for one in page.get("Contents", []):
                name = one["Key"].removeprefix(self._prefix)
                if before is not None and name >= before:
                    return
                yield Entry(name, one["Size"], one["ETag"], one["LastModified"].date())
            token = page.get("NextContinuationToken")
            if not page["IsTruncated"]:
                return
            if not token or token in seen:
                raise self._endless()
            seen.add(token)
            question["ContinuationToken"] = token

    def _counted(self) -> Any:
        client = self._client()
        client.meta.events.register("response-received", self._count, unique_id="ai-usage-journal")
        return client

    def _count(self, context: Mapping[str, Any], **_: Any) -> None:
        """Count one attempt of a call, botocore's own repeats included."""
        self.journal.calls += 1
        self.journal.retries += context.get("retries", {}).get("attempt", 1) > 1

    def _page(self, question: Mapping[str, Any]) -> dict[str, Any]:
        page: dict[str, Any] = self._counted().list_objects_v2(**question)
        # botocore takes a foreign body (a proxy's page with status 200) for an empty list.
        if "IsTruncated" not in page or page.get("Name") != self._bucket:
            raise self._foreign()
        return page

    def _read(self, entry: Entry) -> bytes:
        answer = self._counted().get_object(Bucket=self._bucket, Key=self._prefix + entry.name, IfMatch=entry.version)
        with answer["Body"] as body:
            # One byte more than there should be, so that a longer one is found out, and not read to its end.
            content: bytes = body.read((entry.size or 0) + 1)
        return content

    def _named(self, error: Exception, permission: str) -> UsageError:
        if isinstance(error, aws.ClientError):
            return self._refused(error, permission)
        if isinstance(error, (aws.NoCredentialsError, aws.PartialCredentialsError, aws.TokenRetrievalError)):
            return self._rejected(self._held_by)
        if isinstance(error, aws.ParamValidationError):
            return self._absent()
        return self._unavailable()

    def _refused(self, error: aws.ClientError, permission: str) -> UsageError:
        said = error.response.get("Error", {})
        code, status = str(said.get("Code", "")), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if error.operation_name.startswith("AssumeRole"):
            permission = "sts:AssumeRole"
        elif "kms" in str(said.get("Message", "")).lower():
            permission = "kms:Decrypt"
        if code in self._REJECTED:
            failure = self._rejected(self._held_by)
        elif code == "InvalidObjectState":
            failure = ConfigurationInvalid(
                f"Objects of {self.root} are archived (Glacier) and cannot be read.",
                action="Restore them, or ask for later days.",
            )
        elif status == 403 or code in ("AccessDenied", "AllAccessDisabled"):
            failure = self._denied(permission, f"The credential of the connection {self._held_by}")
        elif code == "NoSuchBucket":
            failure = self._absent()
        elif code in ("SlowDown", "Throttling", "TooManyRequests") or status == 429:
            failure = self._throttled()
        elif status in (404, 412):
            failure = self._changed()
        elif status >= 500:
            failure = self._unavailable(f"could not answer (HTTP {status})")
        else:
            failure = ResponseInvalid(
                f"S3 refused the question at {self.root} (HTTP {status}).",
                action="Check region_name and the address in the connection of the bucket; if they are right, report this.",
            )
        return failure


class GoogleBucket(Landing):
    """
    A bucket of Google Cloud Storage.

    :param client: makes the client of ``google-cloud-storage``, which calls what it is given with every answer.
    :param how: what every call of it is made with: ``timeout`` and ``retry``.
    :param held_by: the connection that holds the credential.
    """

    permission_to_list, permission_to_read = "storage.objects.list", "storage.objects.get"

    def __init__(
        self,
        root: str,
        layout: Layout,
        client: Callable[[Count], Any],
        held_by: str,
        how: Mapping[str, Any],
        **more: Any,
    ) -> None:
        super().__init__(root, layout, **more)
        self._make = client
        self._made: Any = None
        self._held_by = held_by
        self._bucket, self._prefix = _bucket_and_prefix(root)
        self._how = how

    def _list(self, after: str | None, before: str | None) -> Iterator[Entry]:
        token: str | None = None
        seen: set[str] = set()
        while True:
            found, token = self._call(self.permission_to_list, self._page, after, before, token)
            for blob in found:
                yield Entry(blob.name.removeprefix(self._prefix), blob.size, blob.generation, blob.updated.date())
            if not token:
                return
            if token in seen:
                raise self._endless()
            seen.add(token)

    def _counted(self) -> Any:
        if self._made is None:
            self._made = self._make(self._count)
        return self._made

    def _count(self, answer: Any, *_: Any, **__: Any) -> None:
        self.journal.calls += 1
        self.journal.retries += answer.status_code == 429 or answer.status_code >= 500

    def _page(self, after: str | None, before: str | None, token: str | None) -> tuple[list[Any], str | None]:
        pages = self._counted().list_blobs(
            self._bucket,
            prefix=self._prefix or None,
            start_offset=None if after is None else self._prefix + after,
            end_offset=None if before is None else self._prefix + before,
            page_size=NAMES_PER_PAGE,
            page_token=token,
            fields="kind,nextPageToken,items(name,size,generation,updated)",
            **self._how,
        )
        page = next(pages.pages)
        if page.raw_page.get("kind") != "storage#objects":
            raise self._foreign()
        return list(page), pages.next_page_token

    def _read(self, entry: Entry) -> bytes:
        blob = self._counted().bucket(self._bucket).blob(self._prefix + entry.name, generation=entry.version)
        # As it is stored: otherwise Google unpacks some, and the size no longer tells whether all of it came.
        content: bytes = blob.download_as_bytes(raw_download=True, **self._how)
        return content

    def _named(self, error: Exception, permission: str) -> UsageError:
        if isinstance(error, google.RetryError) and isinstance(error.cause, Exception):
            return self._named(error.cause, permission)
        failure = self._unavailable()
        if isinstance(error, (google_auth.RefreshError, google.Unauthorized)):
            failure = self._rejected(self._held_by)
        elif isinstance(error, google.Forbidden):
            failure = self._denied(permission, f"The service account of the connection {self._held_by}")
        elif isinstance(error, google.NotFound):
            failure = self._absent() if permission == self.permission_to_list else self._changed()
        elif isinstance(error, google.TooManyRequests):
            failure = self._throttled()
        elif isinstance(error, google.ClientError):
            failure = ResponseInvalid(
                f"Google refused the question at {self.root} (HTTP {int(error.code or 400)}).",
                action="Check the location in the connection; if it is right, report this.",
            )
        elif isinstance(error, ValueError):
            # A body that is no JSON.
            failure = self._foreign()
        return failure


def _bucket_and_prefix(root: str) -> tuple[str, str]:
    """Return bucket and prefix of ``s3://bucket/some/folder``; the prefix ends in a slash, or is empty."""
    bucket, _, folder = root.partition("://")[2].partition("/")
    return bucket, f"{folder}/" if folder else ""
