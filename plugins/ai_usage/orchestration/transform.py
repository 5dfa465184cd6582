"""
The transform: one dbt process that rebuilds what changed, and a record of what it did.

Slices that changed wait in ``ops.pending_rebuild``. A transform claims the rows it finds when it begins and removes those
once dbt has succeeded; rows that arrive meanwhile wait for the next one. Killed anywhere, it leaves its claim behind, and
the next transform builds those days again.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_usage.core.errors import UsageError
from ai_usage.warehouse.roles import TRANSFORMER
from ai_usage.warehouse.session import Session, Warehouse

log = logging.getLogger(__name__)

# Any constant works; it only has to be the same in every process that transforms.
_TRANSFORM_LOCK = 7_301_194_422
_APPLICATION = "ai_usage_transform"
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
    with _one_at_a_time(warehouse) as session:
        _end_orphans(session)
        resumes = is_retry and _was_last_in(session, run_id, target)
        pairs = _claimed_by(session, run_id) if resumes else _claim(session, run_id)
        if not pairs and not full_refresh:
            return Transformed(pairs=0)
        command = _command(project, target, full_refresh=full_refresh, resumes=resumes)
        exit_code = _run_dbt(command, _environment(warehouse))
        done = _record(session, run_id, command, target, pairs, exit_code)
        if exit_code:
            raise _failure(target, exit_code)
        session.execute("delete from ops.pending_rebuild where claimed_by = %s", (run_id,))
        session.commit()
    return done


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
        (_APPLICATION,),
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


def _was_last_in(session: Session, run_id: str, target: Path) -> bool:
    """Tell whether dbt's artifacts are those of this run's failed try, so that ``dbt retry`` knows where to go on."""
    row = session.execute(
        "select invocation_id from ops.dbt_run where run_id = %s and not succeeded order by started_at desc limit 1",
        (run_id,),
    ).fetchone()
    session.commit()
    return row is not None and _artifact(target).get("metadata", {}).get("invocation_id") == row[0]


def _command(project: Path, target: Path, *, full_refresh: bool, resumes: bool) -> list[str]:
    common = ["--project-dir", str(project), "--profiles-dir", str(project), "--target-path", str(target)]
    program = str(Path(sys.executable).with_name("dbt"))
    dbt = [program, "--log-format", "json", "--no-use-colors", "--log-path", str(target / "logs")]
    if resumes:
        return [*dbt, "retry", *common, "--state", str(target)]
    # Unit tests try the models' logic on made-up rows: that is for whoever changes them, not for every run.
    build = [*dbt, "build", "--exclude-resource-type", "unit_test", *common]
    return [*build, "--full-refresh"] if full_refresh else build


def _environment(warehouse: Warehouse) -> dict[str, str]:
    """Return dbt's environment: the login goes by here alone, never by arguments, which dbt writes to its artifacts."""
    # dbt imports every top-level module named dbt_* that it can find, so Airflow's path additions stay out.
    inherited = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    return inherited | {
        "AI_USAGE_DB_HOST": warehouse.host,
        "AI_USAGE_DB_PORT": str(warehouse.port),
        "AI_USAGE_DB_NAME": warehouse.dbname,
        "AI_USAGE_DB_USER": warehouse.user,
        "DBT_ENV_SECRET_AI_USAGE_DB_PASSWORD": warehouse.password,
        "AI_USAGE_DB_SSLMODE": warehouse.sslmode,
        "AI_USAGE_DBT_APPLICATION": _APPLICATION,
        # A reader that holds a table must not stop the transform for ever; dbt's own sessions notice a dead client.
        "PGOPTIONS": "-c lock_timeout=10min -c client_connection_check_interval=10s",
        "DO_NOT_TRACK": "1",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }


# A task that gets SIGKILL cannot end its child, and dbt would go on beside the next transform. Linux ends it for us: this
# asks for a signal at the parent's death (prctl 1 is PR_SET_PDEATHSIG), and then becomes dbt.
_END_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def _run_dbt(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run dbt, hand its events to the log as they come, and return its exit code. dbt ends with us, however we end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _END_WITH_PARENT, str(os.getpid()), *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            _log_event(line)
        return process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


_LEVELS = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO}


def _log_event(line: str) -> None:
    try:
        info = json.loads(line)["info"]
        level, message = _LEVELS.get(info["level"], logging.DEBUG), info["msg"]
    except (ValueError, KeyError, TypeError):
        level, message = logging.INFO, line.rstrip()
    if message.strip():
        log.log(level, "dbt: %s", message)


def _artifact(target: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((target / "run_results.json").read_text())
        return content
    except (OSError, ValueError):
        return {}


def _record(
    session: Session, run_id: str, command: Sequence[str], target: Path, pairs: int, exit_code: int
) -> Transformed:
    """Keep every node's result."""
    artifact = _artifact(target)
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
            "retry" if "retry" in command else "build",
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


def _failure(target: Path, exit_code: int) -> TransformFailed:
    bad = [
        f"{result['unique_id'].split('.')[2]} ({result['status']}: {(result.get('message') or '').splitlines()[0:1]})"
        for result in _artifact(target).get("results", [])
        if result["status"] in {"error", "fail", "runtime error"}
    ]
    what = "; ".join(bad[:5]) or f"dbt ended with exit code {exit_code} before it ran a model; the log above says why"
    return TransformFailed(
        f"The marts were not brought up to date: {what}.",
        action="What readers see is the last good build. Correct the cause; the next try goes on from there.",
    )
