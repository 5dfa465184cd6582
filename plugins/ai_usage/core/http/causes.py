"""Looking behind an exception for what really happened."""

from __future__ import annotations


def is_caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    """
    Return whether an exception of the kind stands anywhere behind the error.

    Libraries hide it in different places: the cause, the context, an argument, ``reason`` (urllib3) or ``kwargs``
    (botocore).
    """
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        if isinstance(one, kind):
            return True
        seen.add(id(one))
        details = getattr(one, "kwargs", None)
        waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
        waiting += details.values() if isinstance(details, dict) else ()
    return False
