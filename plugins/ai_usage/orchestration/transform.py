"""
The transform: one dbt process that rebuilds what changed, and a record of what it did.

Slices that changed wait in ``ops.pending_rebuild``. A transform claims the rows it finds when it begins and removes those
once dbt has succeeded; rows that arrive meanwhile wait for the next one. Killed anywhere, it leaves its claim behind, and
the next transform builds those days again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_usage.core.errors import UsageError
from ai_usage.orchestration import views
from ai_usage.orchestration.dbt_process import APPLICATION, Dbt
from ai_usage.warehouse import events, ledger
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER, TRANSFORMER
from ai_usage.warehouse.session import Session, Warehouse

log = logging.getLogger(__name__)

# Any constant works; it only has to be the same in every process that transforms.
_TRANSFORM_LOCK = 7_301_194_422
_PLACE = Place("-", "usage_marts", None, None)
_GOOD = {"success", "pass", "warn", "no-op", "skipped-by-design"}


class TransformFailed(UsageError):
    """dbt could not build or test the marts; what readers see is what the last good build left."""

    kind = "transform_failed"
    is_permanent = False


@dataclass(frozen=True)
class Transformed:
    """What a transform did."""

    pairs: int
    nodes_ok: int = 0
    nodes_failed: int = 0
    rows_changed: int = 0

    def __str__(self) -> str:
        if not self.pairs and not self.nodes_ok:
            return "No slice changed since the last transform: nothing to build."
        return (
            f"{self.pairs} connection-days rebuilt: {self.nodes_ok} dbt nodes good, {self.rows_changed} rows changed."
        )


def transform(
    warehouse: Warehouse,
    run_id: str,
    *,
    project: Path,
    target: Path,
    full_refresh: bool = False,
    is_retry: bool = False,
) -> Transformed:
    """
    Build and test everything that changed slices touch.

    :param target: dbt's folder for artifacts; transforms share it, so that the parsed project is reused.
    :param full_refresh: rebuild all of history instead.
    :param is_retry: this run has failed before: go on where dbt stopped.

    Raises :class:`TransformFailed` naming the nodes that failed.
    """
    dbt = Dbt(warehouse, project, target)
    with _told_as_a_story(warehouse, run_id), _one_at_a_time(warehouse) as session:
        _end_orphans(session)
        resumes = is_retry and _was_last_in(session, run_id, dbt)
        pairs = _claimed_by(session, run_id) if resumes else _claim(session, run_id)
        # The first build has views to make that tell how things stand, also when nothing could be read yet.
        if not pairs and not full_refresh and _was_ever_built(session):
            return Transformed(pairs=0)
        before = views.project_digest(project)
        with_views = full_refresh or not views.are_as_built(session, before)
        exit_code = dbt.run(*_command(dbt, full_refresh=full_refresh, resumes=resumes, with_views=with_views))
        done = _record(session, run_id, "retry" if resumes else "build", dbt, pairs, exit_code)
        if exit_code:
            raise _failure(dbt, exit_code)
        # A retry makes what its first try did not, and the project may have changed in between.
        if with_views and not resumes:
            views.remember(session, dbt.artifact()["metadata"]["invocation_id"], before)
        _keep_recommendations(session)
        session.execute("delete from ops.pending_rebuild where claimed_by = %s", (run_id,))
        session.commit()
    return done


def check_all_history(warehouse: Warehouse, run_id: str, *, project: Path, target: Path) -> Transformed:
    """
    Run every data test over all of history, where a transform tests the days that it changed. Builds nothing.

    Raises :class:`TransformFailed` naming the tests that failed.
    """
    dbt = Dbt(warehouse, project, target)
    with _one_at_a_time(warehouse) as session:
        exit_code = dbt.run("test", "--exclude-resource-type", "unit_test")
        done = _record(session, run_id, "test", dbt, 0, exit_code)
        if exit_code:
            raise _failure(dbt, exit_code)
    return done


@contextmanager
def _told_as_a_story(warehouse: Warehouse, run_id: str) -> Iterator[None]:
    """Open the transform's problem when it fails, and close it when it succeeds."""
    try:
        yield
    except UsageError as error:
        try:
            with warehouse.session(LOADER) as session:
                events.open_problem(
                    session, _PLACE, "transform", error.kind, "error", error.happened, error.action, run_id
                )
        except UsageError as untold:
            # The failure itself says more than that it could not be kept.
            log.warning("The failure could not be kept as a problem: %s", untold)
        raise
    with warehouse.session(LOADER) as session:
        events.close_problem(session, _PLACE, "transform", run_id)


@contextmanager
def _one_at_a_time(warehouse: Warehouse) -> Iterator[Session]:
    """Hold the transform's lock for a whole dbt run; a second transform waits here."""
    with warehouse.session(TRANSFORMER, application="ai_usage transform") as session:
        session.execute("select pg_advisory_lock(%s)", (_TRANSFORM_LOCK,))
        session.commit()
        yield session


def _end_orphans(session: Session) -> None:
    """End queries of a transform that was killed: PostgreSQL finishes them otherwise, and writes what they write."""
    # Only the login itself may end its sessions, not the role it has taken on.
    session.execute("set local role none")
    session.execute(
        """
        select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = %s and usename = session_user and pid <> pg_backend_pid()
        """,
        (APPLICATION,),
    )
    session.commit()


def _claim(session: Session, run_id: str) -> int:
    session.execute("update ops.pending_rebuild set claimed_by = %s", (run_id,))
    session.commit()
    return _claimed_by(session, run_id)


def _claimed_by(session: Session, run_id: str) -> int:
    row = session.execute(
        """
        select count(*) from (
            select distinct connection_id, usage_date from ops.pending_rebuild where claimed_by = %s
        ) as pair
        """,
        (run_id,),
    ).fetchone()
    session.commit()
    assert row is not None
    return int(row[0])


def _was_last_in(session: Session, run_id: str, dbt: Dbt) -> bool:
    """Tell whether dbt's artifacts are those of this run's failed try, so that ``dbt retry`` knows where to go on."""
    row = session.execute(
        "select invocation_id from ops.dbt_run where run_id = %s and not succeeded order by started_at desc limit 1",
        (run_id,),
    ).fetchone()
    session.commit()
    return row is not None and dbt.artifact().get("metadata", {}).get("invocation_id") == row[0]


def _was_ever_built(session: Session) -> bool:
    was_built = ledger.was_ever_built(session)
    # dbt takes minutes, and no transaction may be open meanwhile.
    session.commit()
    return was_built


def _command(dbt: Dbt, *, full_refresh: bool, resumes: bool, with_views: bool) -> list[str]:
    if resumes:
        return ["retry", "--state", str(dbt.target)]
    # Unit tests try the models' logic on made-up rows: that is for whoever changes them, not for every run.
    build = ["build", "--exclude-resource-type", "unit_test"]
    if full_refresh:
        build += ["--full-refresh"]
    if not with_views:
        # What views show is tested all the same: `empty` leaves out no test of what is left out.
        build += ["--indirect-selection", "empty", "--exclude", "config.materialized:view"]
    return build


def _keep_recommendations(session: Session) -> None:
    """Keep what the settlement of the last months recommends as look-back, for the planner."""
    session.execute(
        """
        delete from ops.lookback as kept
        where not exists (
            select from marts.settlement_recommendations as told
            where told.provider = kept.provider and told.stream = kept.stream
                and told.recommended_lookback_days is not null
        )
        """
    )
    session.execute(
        """
        insert into ops.lookback as kept (provider, stream, recommended_days, observed_days)
        select provider, stream, recommended_lookback_days, observed_days from marts.settlement_recommendations
        where recommended_lookback_days is not null
        on conflict (provider, stream) do update set recommended_days = excluded.recommended_days,
            observed_days = excluded.observed_days, computed_at = excluded.computed_at
        """
    )


def _record(session: Session, run_id: str, command: str, dbt: Dbt, pairs: int, exit_code: int) -> Transformed:
    """Keep every node's result."""
    artifact = dbt.artifact()
    results = artifact.get("results", [])
    ok = sum(result["status"] in _GOOD for result in results)
    done = Transformed(pairs, ok, len(results) - ok, sum(_rows(result) or 0 for result in results))
    invocation_id = artifact.get("metadata", {}).get("invocation_id")
    if invocation_id is None:
        return done
    session.execute(
        """
        insert into ops.dbt_run (invocation_id, run_id, command, started_at, finished_at, succeeded, pairs_rebuilt,
            nodes_ok, nodes_failed, rows_changed)
        values (%s, %s, %s, coalesce(%s::timestamptz, now()), clock_timestamp(), %s, %s, %s, %s, %s)
        on conflict (invocation_id) do nothing
        """,
        (
            invocation_id,
            run_id,
            command,
            artifact["metadata"].get("invocation_started_at"),
            exit_code == 0,
            pairs,
            done.nodes_ok,
            done.nodes_failed,
            done.rows_changed,
        ),
    )
    with session.cursor() as cursor:
        cursor.executemany(
            """
            insert into ops.dbt_node_result
                (invocation_id, node_id, resource_type, status, seconds, rows_affected, message)
            values (%s, %s, %s, %s, %s, %s, %s)
            on conflict (invocation_id, node_id) do nothing
            """,
            [
                (
                    invocation_id,
                    result["unique_id"],
                    result["unique_id"].split(".")[0],
                    result["status"],
                    str(result["execution_time"]),
                    _rows(result),
                    result.get("message"),
                )
                for result in results
            ],
        )
    session.commit()
    return done


def _rows(result: dict[str, Any]) -> int | None:
    """Return how many rows a model wrote; tests report their finds elsewhere, views and full tables report none."""
    rows = (result.get("adapter_response") or {}).get("rows_affected")
    return int(rows) if result["unique_id"].startswith("model.") and isinstance(rows, int) and rows >= 0 else None


def _first_line(message: str | None) -> list[str]:
    """Return the line that says what kind of failure it was; those below may quote rows."""
    return (message or "").splitlines()[:1]


def _failure(dbt: Dbt, exit_code: int) -> TransformFailed:
    bad = [
        f"{result['unique_id'].split('.')[2]} ({': '.join([result['status'], *_first_line(result.get('message'))])})"
        for result in dbt.artifact().get("results", [])
        if result["status"] in {"error", "fail", "runtime error"}
    ]
    what = "; ".join(bad[:5]) or f"dbt ended with exit code {exit_code} before it ran a model; the log above says why"
    return TransformFailed(
        f"The marts were not brought up to date: {what}.",
        action="What readers see is the last good build. Correct the cause; the next try goes on from there.",
    )
