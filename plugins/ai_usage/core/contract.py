"""
The provider contract: what one provider module says about itself, and the three questions it answers.

A provider module is pure: it never imports Airflow, never touches the database, never imports another provider. It is
handed a :class:`Connection` whose client is ready to use, so that it runs the same in a DAG, on the command line and in
a test.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, ClassVar, NamedTuple

from ai_usage.core.errors import UsageError
from ai_usage.core.slices import WHOLE_CONNECTION, Window
from ai_usage.core.texts import plain


@dataclass(frozen=True)
class Stream:
    """
    One endpoint's worth of records of one shape.

    :param name: short name; the records land in ``raw.<provider>_<name>``.
    :param summary: what one record is.
    :param grain: the record fields that identify a record inside a slice.
    :param fields: every field a record may have at its top level. Anything else is refused before it reaches the disk,
        so that content (a prompt, a completion) can never be stored by accident.
    :param settle: how long after the end of a UTC day the provider may still change it.
    :param lookback_days: how many days before today are read again on every run, final or not.
    :param retention_days: how far back the provider can tell; ``None`` for ever.
    :param max_window_days: the widest window one extraction may ask for.
    :param newest_days_ago: how many days before today the newest day is that it gives; 0 where today is one of them.
    :param is_usage: whether its records are usage or cost. What is not (a balance) has no part in what is known about the
        usage of a day.
    """

    name: str
    summary: str
    grain: tuple[str, ...]
    fields: frozenset[str]
    settle: timedelta
    lookback_days: int
    retention_days: int | None
    max_window_days: int
    newest_days_ago: int = 0
    is_usage: bool = True


@dataclass(frozen=True)
class Scope:
    """
    What can succeed or fail on its own inside a connection: a region, a resource, an account.

    :param name: stable identity inside the connection; ``-`` where the connection has no parts.
    :param account_id: the provider's id of the account that owns the usage, once known.
    :param account_name: its display name, where the provider gives one.
    :param region: the region all of the scope's usage belongs to, where regions exist.
    :param first_day: the first day of which the source can tell, where it has a beginning of its own; days before it are
        outside of its retention.
    """

    name: str = WHOLE_CONNECTION
    account_id: str | None = None
    account_name: str | None = None
    region: str | None = None
    first_day: date | None = None


class Record(NamedTuple):
    """One record in the provider's own words, and the UTC day it belongs to."""

    usage_date: date
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """
    The answer to one question about a connection.

    :param name: what was asked, for example ``cloudwatch:ListMetrics in eu-west-1``.
    :param passed: whether the answer is good. ``None``: could not be asked, because an earlier check failed.
    :param message: one plain sentence: what was found.
    :param action: one plain sentence: what to do; set whenever the check did not pass.
    :param kind: the event kind of a failure (``credential_rejected``, ``permission_missing``, …).
    :param scope: the part of the connection it is about.
    """

    name: str
    passed: bool | None
    message: str
    action: str | None = None
    kind: str | None = None
    scope: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", plain(self.name))
        object.__setattr__(self, "message", plain(self.message))
        object.__setattr__(self, "action", self.action and plain(self.action))

    @classmethod
    def failed(cls, name: str, error: UsageError, scope: str | None = None) -> Check:
        """Return the answer that an error is."""
        return cls(name, False, error.happened, error.action, error.kind, scope)


@dataclass(frozen=True)
class Note:
    """
    Something worth telling the person on call that is not an error (``schema_drift``, ``restated``, …).

    :param is_news: whether it is told again when the same words come again; a restatement is, a strange field is not.
    """

    kind: str
    message: str
    action: str | None = None
    is_news: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", plain(self.message))


@dataclass
class Journal:
    """
    What an extraction cost and noticed. Providers add to it as they go; the ledger keeps it.

    :param unsettled: days of which the provider itself has said that something is still under way. They stay provisional,
        and are read again, however old they are.
    :param unanswered: days of the window of which the provider says neither that there was usage nor that there was none.
        What is stored of them stays; nothing is taken for "nothing used".
    """

    calls: int = 0
    retries: int = 0
    throttled: int = 0
    bytes_received: int = 0
    notes: list[Note] = field(default_factory=list)
    unsettled: set[date] = field(default_factory=set)
    unanswered: set[date] = field(default_factory=set)

    def clear(self) -> None:
        """Begin a new attempt. The journal stays the same object, because the client counts into it."""
        self.calls = self.retries = self.throttled = self.bytes_received = 0
        self.notes = []
        self.unsettled = set()
        self.unanswered = set()


class Memory:
    """
    Names a provider must not forget between runs, per stream and scope.

    CloudWatch, for one, stops listing a metric after two idle weeks, although it still answers for it: whoever wants
    last month's numbers has to remember what to ask for.
    """

    def __init__(self, known: Mapping[tuple[str, str], Iterable[str]] | None = None) -> None:
        self._known = {place: set(names) for place, names in (known or {}).items()}
        self.learnt: set[tuple[str, str, str]] = set()
        """(stream, scope, name) of everything met in this run, for the ledger to keep."""

    def recall(self, stream: str, scope: str) -> frozenset[str]:
        """Return every name ever met in this stream and scope."""
        return frozenset(self._known.get((stream, scope), ()))

    def remember(self, stream: str, scope: str, names: Iterable[str]) -> None:
        """Keep the names for the runs to come."""
        names = set(names)
        self._known.setdefault((stream, scope), set()).update(names)
        self.learnt.update((stream, scope, name) for name in names)


def _nothing_stored(stream: Stream, scope: Scope, day: date) -> Sequence[Mapping[str, Any]]:  # noqa: ARG001
    return ()


@dataclass
class Connection:
    """
    A source as a provider sees it: an identity, settings without secrets, and a client that holds the credential.

    :param connection_id: the Airflow connection's id, for error texts.
    :param options: the connection's settings that are not secret.
    :param client: whatever the provider's :attr:`Provider.client_kind` promises.
    :param stored: returns what the warehouse holds of a slice, for a source that can only tell of the present: what was
        gathered of a day so far must be in what is yielded next, because a slice is replaced as a whole.
    """

    connection_id: str
    options: Mapping[str, Any]
    client: Any
    journal: Journal = field(default_factory=Journal)
    memory: Memory = field(default_factory=Memory)
    stored: Callable[[Stream, Scope, date], Sequence[Mapping[str, Any]]] = _nothing_stored


class Provider(ABC):
    """
    A source of usage: facts first, as data; then the three questions.

    Subclasses raise only errors of :mod:`ai_usage.core.errors`.
    """

    name: ClassVar[str]
    """Short name, the same everywhere: module, DAG (``<name>_usage``), dbt folder, docs page, ``<name>_default``."""
    label: ClassVar[str]
    category: ClassVar[str] = "ai"
    """``ai``, or ``api`` for a source that is not an AI provider and must stay out of AI totals."""
    connection_type: ClassVar[str]
    """The Airflow connection type."""
    client_kind: ClassVar[str]
    """Which thin layer turns the Airflow connection into a client: ``aws``, ``http``, ``azure``, ``google``."""
    streams: ClassVar[tuple[Stream, ...]]
    scopes_per_task: ClassVar[int] = 1
    """
    How many scopes one task may read where a connection has many. For providers that answer for several at once; reading
    still goes scope by scope, and one that fails leaves the others alone.
    """
    documentation: ClassVar[Mapping[str, str]]
    """Title → address of the provider's own pages."""
    if_empty: ClassVar[str]
    """What to look at first when the connection works and nothing was used; one or two plain sentences."""
    revoke: ClassVar[str]
    """One sentence for whoever disconnects: what to take back at the provider."""
    reads: ClassVar[tuple[str, ...]]
    never_reads: ClassVar[tuple[str, ...]]

    @abstractmethod
    def check(self, connection: Connection) -> Iterator[Check]:
        """Verify a connection, cheapest question first. Never raises for what a check can say."""

    @abstractmethod
    def scopes(self, connection: Connection) -> Sequence[Scope]:
        """Return the scopes to read."""

    @abstractmethod
    def extract(self, connection: Connection, stream: Stream, scope: Scope, window: Window) -> Iterator[Record]:
        """
        Yield every record of the window, each with its day, in as few calls as the provider allows.

        Raises before or while yielding when the answer is not complete: what is yielded to the end is the whole window.
        """

    def stream(self, name: str) -> Stream:
        """Return the stream of that name."""
        return next(stream for stream in self.streams if stream.name == name)

    def table(self, stream: Stream) -> str:
        """Return the name of the raw table that holds the stream, without its schema."""
        return f"{self.name}_{stream.name}"
