"""
The views among dbt's models, and whether they stand as a build has left them.

Two thirds of the models are views. They hold no rows, and what they say changes with the project alone, but dbt takes a
third of a build's time to look at them. So a build that has made them all keeps a digest of the project and of every view in
the warehouse. While both stay the same, builds leave views out; whatever else changes them (a person, another version of
dbt) changes the digest, and the next build makes them all again.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from ai_usage.warehouse.session import Session

_WRITTEN_BY_DBT = {"target", "logs"}


def project_digest(project: Path) -> str:
    """Return a digest of everything that views are made from: the project's files, and dbt's version."""
    digest = hashlib.sha256()
    for package in ("dbt-core", "dbt-adapters", "dbt-postgres"):
        digest.update(f"{package} {metadata.version(package)}\n".encode())
    for file in sorted(project.rglob("*")):
        inside = file.relative_to(project)
        if inside.parts[0] not in _WRITTEN_BY_DBT and file.is_file():
            digest.update(f"{inside} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def are_as_built(session: Session, project: str) -> bool:
    """
    Tell whether the views stand as the last build that made them all has left them.

    :param project: the digest of the project as it is now.
    """
    row = session.execute(
        """
        select views_digest from ops.dbt_run
        where succeeded and views_digest is not null order by started_at desc limit 1
        """
    ).fetchone()
    as_built = row is not None and row[0] == _digest(session, project)
    session.commit()
    return as_built


def remember(session: Session, invocation_id: str, project: str) -> None:
    """
    Keep how a build of all models has left the views.

    :param project: the digest of the project as it was when the build began.
    """
    session.execute(
        "update ops.dbt_run set views_digest = %s where invocation_id = %s", (_digest(session, project), invocation_id)
    )
    session.commit()


def _digest(session: Session, project: str) -> str:
    """Return a digest of the project and of all that a build sets of views: definition, privileges and comments."""
    row = session.execute(
        """
        select md5(%s || coalesce(string_agg(
            concat_ws(
                chr(31), namespace.nspname, view.relname, pg_get_viewdef(view.oid), view.relacl::text,
                (
                    select string_agg(told.objsubid || ' ' || told.description, chr(31) order by told.objsubid)
                    from pg_description as told
                    where told.classoid = 'pg_class'::regclass and told.objoid = view.oid
                )
            ), chr(30) order by namespace.nspname, view.relname
        ), ''))
        from pg_class as view
        inner join pg_namespace as namespace on namespace.oid = view.relnamespace
        where view.relkind = 'v' and namespace.nspname in ('staging', 'intermediate', 'marts')
        """,
        (project,),
    ).fetchone()
    assert row is not None
    return str(row[0])
