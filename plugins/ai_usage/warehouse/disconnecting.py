"""A source that was taken out of Airflow: its history stays, its open stories end."""

from __future__ import annotations

from ai_usage.warehouse import events
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.session import Session


def disconnect(session: Session, connection_id: str, run_id: str | None = None) -> bool:
    """
    Write down that a connection is no source any more; return whether that is news.

    Nothing that was read is touched. Open problems end as ``disconnected``: nobody has to do anything about them now. Told
    again, it changes nothing; a connection that was never read is nothing to tell of.

    :param session: an open session under the loader's role.
    """
    row = session.execute(
        """
        update ops.connection set disconnected_at = now()
        where connection_id = %s and disconnected_at is null
        returning provider
        """,
        (connection_id,),
    ).fetchone()
    if row is None:
        return False
    place = Place(row[0], connection_id, None, None)
    events.end_problems(session, place)
    events.record_event(
        session,
        place,
        "disconnected",
        "info",
        "The connection was taken out. What was read of it stays.",
        "Withdraw its key at the provider. `bin/ai-usage purge` deletes what was read.",
        run_id,
    )
    return True
