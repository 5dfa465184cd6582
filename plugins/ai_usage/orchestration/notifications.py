"""
Telling people: of a problem when it opens and when it is over, and once a day how things stand.

What there is to tell stands in the warehouse, so that it is told whichever task finds it, and again if it could not be
told. Telling is never a reason for a run to fail: what goes wrong here is logged and is a problem of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any, TypeVar

from ai_usage.core.errors import UsageError
from ai_usage.orchestration import lateness
from ai_usage.orchestration.digest import digest_of
from ai_usage.orchestration.messages import Message, Tone
from ai_usage.orchestration.notifiers import SMTP, WEBHOOK, Channel, channels
from ai_usage.warehouse import events, outbox
from ai_usage.warehouse.outbox import Story
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from ai_usage.warehouse.session import Session, Warehouse

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_MESSAGES = 5
"""At a time and channel. More news than this, when the network is down for example, is one message that lists it."""
_TITLE = "AI usage"


def after_run(warehouse: Warehouse, dag_id: str, provider_name: str) -> None:
    """Do what every run of a DAG ends with: look for late data, everyone's, and tell the news. Never raises."""

    def is_over() -> None:
        with warehouse.session(LOADER) as session:
            events.close_problem(session, Place(provider_name, dag_id, None, None), "lateness", None)

    _try("That the run is over could not be kept", is_over)
    _try("Whether data is late could not be found out", lateness.watch, warehouse)
    tell_news(warehouse)


def tell_news(warehouse: Warehouse) -> int:
    """Tell on every channel what it has not told yet; return how many messages were sent. Never raises."""
    return _try("The news could not be told; the next run tries again", _tell, warehouse) or 0


def tell_daily(warehouse: Warehouse, today: date | None = None) -> bool:
    """
    Look for late data, tell the news, and send the digest of yesterday unless that was done; return whether it was sent.

    Never raises.

    :param today: the UTC day; only tests give another.
    """
    day = (today or datetime.now(UTC).date()) - timedelta(days=1)
    _try("Whether data is late could not be found out", lateness.watch, warehouse)
    tell_news(warehouse)
    return bool(_try("The digest could not be sent", _send_digest, warehouse, day))


def _try(complaint: str, work: Callable[..., T], *arguments: Any) -> T | None:
    """Return what the work returns, or log that it failed: no run may fail because of what is told about it."""
    try:
        return work(*arguments)
    except UsageError as error:
        log.warning("%s: %s", complaint, error)
    except Exception as error:  # noqa: BLE001 - whatever it is; its text may hold an address
        log.warning("%s (%s).", complaint, type(error).__name__)
    return None


def _tell(warehouse: Warehouse) -> int:
    found = channels()
    _close_the_gone(warehouse, found)
    if not found:
        return 0
    sent = 0
    # A session of its own: the lock outlasts the many short transactions in which messages are marked as told.
    with warehouse.session(LOADER) as session, outbox.one_teller(session):
        for channel in found:
            if channel.wrong is not None:
                _note_failure(session, channel, channel.wrong)
                continue
            for message, stories in _messages(outbox.untold(session, channel.name)):
                session.commit()
                if not _sent(session, channel, message):
                    break
                outbox.mark_told(session, channel.name, stories)
                session.commit()
                sent += 1
    return sent


def _send_digest(warehouse: Warehouse, day: date) -> bool:
    usable = [channel for channel in channels() if channel.wrong is None]
    if not usable:
        return False
    with warehouse.session(LOADER) as session, outbox.one_teller(session):
        if outbox.had_digest(session, day):
            return False
        session.commit()
        message = digest_of(warehouse, day)
        was_sent = [_sent(session, channel, message) for channel in usable]
        if any(was_sent):
            outbox.keep_digest(session, day)
            session.commit()
    return any(was_sent)


def _sent(session: Session, channel: Channel, message: Message) -> bool:
    """Send a message; keep it as a problem of the channel if that fails, and as the end of that problem if it works."""
    try:
        channel.send(message)
    except UsageError as error:
        _note_failure(session, channel, error)
        return False
    events.close_problem(session, _place(channel.name), "notification", None)
    session.commit()
    log.info("Told on %s: %s", channel.name, message.title)
    return True


def _note_failure(session: Session, channel: Channel, error: UsageError) -> None:
    log.warning("%s", error)
    events.open_problem(
        session,
        _place(channel.name),
        "notification",
        "notification_failed",
        "warning",
        error.happened,
        error.action,
        None,
    )
    session.commit()


def _close_the_gone(warehouse: Warehouse, found: Sequence[Channel]) -> None:
    """End the problems of channels that are not configured any more."""
    names = {channel.name for channel in found}
    with warehouse.session(LOADER) as session:
        for name in (WEBHOOK, SMTP):
            if name not in names:
                events.close_problem(session, _place(name), "notification", None, "disconnected")


def _place(channel: str) -> Place:
    return Place("-", channel, None, None)


# ---------------------------------------------------------------- what is said


def _messages(stories: Sequence[Story]) -> Iterator[tuple[Message, list[Story]]]:
    """Yield the messages to send, each with the stories it tells: one per connection and kind, or one for them all."""
    ready = [group for group in _groups(stories) if not _waits(group)]
    if len(ready) <= MOST_MESSAGES:
        for group in ready:
            yield _message(group), group
        return
    is_bad = any(story.resolved_at is None for group in ready for story in group)
    yield (
        Message.of(
            f"{_TITLE}: news of {len(ready)} problems",
            "bad" if is_bad else "good",
            sections=[("Problems", [_message(group).title.removeprefix(f"{_TITLE}: ") for group in ready])],
        ),
        [story for group in ready for story in group],
    )


def _groups(stories: Sequence[Story]) -> list[list[Story]]:
    def key(story: Story) -> tuple[str, str, str]:
        return story.connection_id, story.topic, story.kind

    return [list(group) for _, group in groupby(sorted(stories, key=key), key=key)]


def _waits(group: Sequence[Story]) -> bool:
    """
    Tell whether it is too early for a message about this kind of problem of this connection.

    An opening is told at most once an hour. An end is told when all of it has ended, or an hour later.
    """
    if any(not story.was_told for story in group):
        return group[0].is_damped
    return group[0].is_going_on and all(story.resolved_lately for story in group)


def _message(group: Sequence[Story]) -> Message:
    opened = [story for story in group if story.resolved_at is None]
    if opened:
        tone: Tone = "bad" if any(story.severity == "error" for story in opened) else "warning"
        return _told(group, opened, tone, "", f"Since {_moment(min(story.opened_at for story in opened))}")
    ended = [story for story in group if story.was_told] or list(group)
    last = max(ended, key=lambda story: story.resolved_at or story.opened_at)
    if last.resolution == "disconnected":
        return _told(group, ended, "info", "closed, the connection was taken out: ", "")
    verb = "recovered: " if last.was_told else "came and went: "
    return _told(
        group, ended, "good", verb, f"From {_moment(min(story.opened_at for story in ended))} to {_until(last)}"
    )


def _told(group: Sequence[Story], shown: Sequence[Story], tone: Tone, verb: str, when: str) -> Message:
    first = shown[0]
    words = list(dict.fromkeys(story.message for story in shown))
    places = list(dict.fromkeys(story.place for story in shown if story.place))
    passed = sum(1 for story in group if story.resolved_at is not None and not story.was_told)
    is_over = all(story.resolved_at is not None for story in shown)
    facts: list[tuple[str, Any]] = [
        ("Connection", f"{first.connection_id} ({first.label})"),
        ("Problem", f"{first.kind}: {words[0]}"),
        ("When", when + (" UTC" if when else "")),
        ("Seen", f"in {max(story.times_seen for story in shown)} runs" if shown[0].times_seen > 1 else ""),
        ("What to do", "" if is_over else first.action or ""),
        ("Still open", "the same problem elsewhere in this connection" if is_over and first.is_going_on else ""),
        ("Before", f"it came and went {passed} times" if passed and not is_over else ""),
    ]
    sections: list[tuple[str, Sequence[object]]] = [("Where", places), ("Also said", words[1:])]
    return Message.of(f"{_TITLE}: {first.connection_id}: {verb}{words[0]}", tone, facts, sections)


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def _until(story: Story) -> str:
    return _moment(story.resolved_at) if story.resolved_at else "now"
