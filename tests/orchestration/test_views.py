"""Views are left out of a build while they stand as the last one left them, and never otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from ai_usage.orchestration import views
from ai_usage.orchestration.transform import transform
from ai_usage.warehouse.roles import TRANSFORMER
from tests.dbt.bedrock_ledger import BedrockLedger, record
from tests.support.warehouse import Cluster, TestWarehouse

DAY = date(2026, 3, 1)
CONNECTION, REGION = "aws_bedrock_default", "eu-west-1"


@pytest.fixture(scope="module")
def project(repository: Path) -> Path:
    return repository / "dbt_project"


@pytest.fixture(scope="module")
def built(cluster: Cluster, project: Path, dbt_target: Path) -> Iterator[TestWarehouse]:
    """A warehouse after its first transform."""
    with cluster.warehouse() as fresh:
        load(fresh, 10)
        transform(fresh.warehouse, "first", project=project, target=dbt_target)
        yield fresh


@pytest.fixture
def copy(cluster: Cluster, built: TestWarehouse) -> Iterator[TestWarehouse]:
    with cluster.warehouse(like=built) as fresh:
        yield fresh


def load(warehouse: TestWarehouse, requests: int) -> None:
    ledger = BedrockLedger(warehouse.admin_dsn)
    ledger.scope(CONNECTION, REGION, "111122223333")
    ledger.load(CONNECTION, REGION, DAY, [record("amazon.nova-pro-v1:0", {"Invocations": requests})])


def nodes(warehouse: TestWarehouse, run_id: str, kind: str) -> set[str]:
    """Return the names of a run's nodes of one kind."""
    found = warehouse.query(
        "select node_id from ops.dbt_node_result natural join ops.dbt_run where run_id = %s and resource_type = %s",
        run_id,
        kind,
    )
    return {node.split(".")[2] for (node,) in found}


def names(warehouse: TestWarehouse, kind: str) -> set[str]:
    """Return the views (``v``) or tables (``r``) that dbt has made."""
    statement = (
        "select relname from pg_class where relkind = %s"
        " and relnamespace in ('staging'::regnamespace, 'intermediate'::regnamespace, 'marts'::regnamespace)"
    )
    return {name for (name,) in warehouse.query(statement, kind)}


def are_as_built(warehouse: TestWarehouse, project: Path) -> bool:
    with warehouse.warehouse.session(TRANSFORMER) as session:
        return views.are_as_built(session, views.project_digest(project))


def test_a_build_after_the_first_leaves_views_out_and_tests_what_they_show(
    copy: TestWarehouse, project: Path, dbt_target: Path
) -> None:
    load(copy, 20)
    transform(copy.warehouse, "second", project=project, target=dbt_target)

    assert nodes(copy, "first", "model") == names(copy, "v") | names(copy, "r")
    assert nodes(copy, "second", "model") == names(copy, "r")
    assert nodes(copy, "second", "test") == nodes(copy, "first", "test") != set()
    assert copy.query("select requests::int from marts.usage_daily") == [(20,)]
    assert copy.query("select count(*) from ops.dbt_run where views_digest is not null") == [(1,)]


@pytest.mark.parametrize(
    "change",
    [
        "drop view marts.settlement_curve cascade",
        "alter view marts.integration_events rename column message to told",
        "revoke select on marts.usage_monthly from ai_usage_reader",
        "comment on view marts.coverage_calendar is 'something else'",
        "comment on column marts.coverage_calendar.usage_date is 'something else'",
        "create view marts.of_an_older_version as select 1 as one",
        "update ops.dbt_run set succeeded = false",
        "update ops.dbt_run set views_digest = null",
    ],
)
def test_views_that_do_not_stand_as_built_are_made_again(copy: TestWarehouse, project: Path, change: str) -> None:
    assert are_as_built(copy, project)
    copy.query(change)
    assert not are_as_built(copy, project)


def test_a_view_that_somebody_has_dropped_is_back_after_the_next_build(
    copy: TestWarehouse, project: Path, dbt_target: Path
) -> None:
    before = names(copy, "v")
    copy.query("drop view marts.settlement_curve cascade")
    load(copy, 20)
    transform(copy.warehouse, "second", project=project, target=dbt_target)

    assert names(copy, "v") == before
    assert are_as_built(copy, project)


def test_another_project_makes_its_views_again(copy: TestWarehouse, project: Path, tmp_path: Path) -> None:
    other = tmp_path / "dbt_project"
    shutil.copytree(project, other)
    assert are_as_built(copy, other), "the place of the project is no part of what it says"

    (other / "target").mkdir(exist_ok=True)
    (other / "target" / "manifest.json").write_text("{}")
    assert are_as_built(copy, other), "what dbt writes is no part of it either"

    macro = other / "macros" / "coverage.sql"
    macro.write_text(macro.read_text() + "\n")
    assert not are_as_built(copy, other)
    shutil.copyfile(project / "macros" / "coverage.sql", macro)
    assert are_as_built(copy, other)

    macro.rename(other / "macros" / "renamed.sql")
    assert not are_as_built(copy, other)
