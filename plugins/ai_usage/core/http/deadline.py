"""
A total deadline for a blocking call.

The time-outs of ``requests`` and ``botocore`` start afresh with every read of the socket: a server that sends one byte
now and then can hold a worker for days. The only deadline that covers every phase of a call, headers included, is one
that is watched from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


class DeadlineExceededError(Exception):
    """The call was given up; it may still be running in a daemon thread, which ends with the process at the latest."""


def call_within(seconds: float, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """
    Return what the call returns, raise what it raises, or give it up.

    A call that is given up is left to a daemon thread: it holds its socket until its own time-out or the end of the
    process. Whatever it was working with must not be used again.

    :raises DeadlineExceededError: if the call takes longer than ``seconds``.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failure.append(error)

    thread = Thread(target=run, name="call-within-deadline", daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if failure:
        raise failure[0]
    if outcome:
        return outcome[0]
    raise DeadlineExceededError
