"""Scenarios of group C: processes and databases that end in the middle, and runs that meet."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from ai_usage.core.errors import WarehouseUnavailable
from tests.faults.conftest import Tell
from tests.faults.ground import Ground, assert_marts_are_true, assert_same, prepared
from tests.faults.schedule import transform_quietly
from tests.support import stack
from tests.support.killing_proxy import KillingProxy
from tests.support.victim import Forks, Victim
from tests.support.warehouse import Cluster, TestWarehouse

pytestmark = pytest.mark.timeout(300)

PROVIDERS = ["anthropic", "fireworks", "google_vertex_ai", "replicate"]
CLEAN = "one retry later exact"


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server that nobody else needs, because it will be killed."""
    with Cluster(tmp_path_factory.mktemp("killed") / "postgres") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ground(own_cluster: Cluster) -> Iterator[Ground]:
    """The ground, on a server that may be killed."""
    from datetime import UTC, datetime

    with prepared(own_cluster, datetime.now(UTC).date(), PROVIDERS) as made:
        yield made


@pytest.fixture
def proxy(own_cluster: Cluster) -> Iterator[KillingProxy]:
    with KillingProxy(own_cluster.postgres.port) as running:
        yield running


def old_or_new(ground: Ground, warehouse: TestWarehouse, name: str) -> None:
    """Every slice is what it was, or what the provider says now; never a mixture."""
    for slot, here in stack.content(warehouse, name).items():
        old, new = ground.before[name].get(slot), ground.after[name].get(slot)
        assert here in (old, new), f"{slot} is a mixture"


@pytest.mark.parametrize("name", ["anthropic", "google_vertex_ai", "replicate"])
@pytest.mark.parametrize("kill_at", [9, 23, 31, 38, 44, 57])
def test_a_worker_that_is_killed(ground: Ground, tell: Tell, proxy: KillingProxy, name: str, kill_at: int) -> None:
    tell(f"C2 {name}: SIGKILL before message {kill_at} to PostgreSQL")
    with ground.warehouse() as warehouse:
        victim = Victim(warehouse, ground.sandbox, proxy)
        lived = victim.sync_killed([name], "killed", kill_at)
        old_or_new(ground, warehouse, name)
        ground.heal(warehouse, name)
    tell("C2", "was over before; exact" if lived else f"every slice old or new; {CLEAN}")


def test_a_worker_that_is_asked_to_end(ground: Ground, tell: Tell, proxy: KillingProxy) -> None:
    tell("C3 fireworks: SIGTERM in the middle of a load")
    with ground.warehouse() as warehouse:
        victim = Victim(warehouse, ground.sandbox, proxy)
        lived = victim.sync_killed(
            ["fireworks"], "ended", 40, lambda: os.kill(proxy.victim or os.getpid(), signal.SIGTERM)
        )
        assert not lived
        old_or_new(ground, warehouse, "fireworks")
        ground.heal(warehouse, "fireworks")
        assert warehouse.query("select count(*) from ops.extraction where outcome = 'running'") == [(0,)]
    tell("C3", f"every slice old or new; {CLEAN}, the attempt closed as aborted")


STRIKES: dict[str, Callable[[Cluster, TestWarehouse], None]] = {
    "the whole server is killed": lambda cluster, _: cluster.postgres.kill(),
    "the server restarts at once": lambda cluster, _: cluster.postgres.stop("immediate"),
    "the session is terminated": lambda _, warehouse: _terminate(warehouse),
}


def _terminate(warehouse: TestWarehouse) -> None:
    warehouse.query(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and usename = 'ai_usage'"
    )


@pytest.mark.parametrize("what", STRIKES)
def test_a_database_that_goes_away(
    ground: Ground, tell: Tell, proxy: KillingProxy, own_cluster: Cluster, what: str
) -> None:
    tell(f"C4 anthropic: {what} in the middle of a load")
    with ground.warehouse() as warehouse:
        victim = Victim(warehouse, ground.sandbox, proxy)
        victim.sync_killed(["anthropic"], "struck", 33, lambda: STRIKES[what](own_cluster, warehouse))
        own_cluster.postgres.start()
        old_or_new(ground, warehouse, "anthropic")
        ground.heal(warehouse, "anthropic")
    tell("C4", f"every slice old or new; {CLEAN}")


@pytest.mark.parametrize("name", ["anthropic", "fireworks"])
def test_two_runs_at_once(ground: Ground, tell: Tell, proxy: KillingProxy, name: str) -> None:
    tell(f"C6 {name}: three runs of the same days at once")
    with ground.warehouse() as warehouse:
        assert Victim(warehouse, ground.sandbox, proxy).sync_at_once([[name]] * 3, "at once")
        ground.assert_exact(warehouse, name)
        ground.heal(warehouse, name)
    tell("C6", "exact at once, nothing twice")


def test_a_backfill_and_a_run_that_overlap(ground: Ground, tell: Tell) -> None:
    tell("C7 replicate: a backfill that overlaps with a run and with another backfill")
    first, today = ground.today - timedelta(days=3), ground.today
    windows = [(first, today), (first, today - timedelta(days=1)), (today - timedelta(days=2), today)]
    with ground.warehouse() as warehouse:
        forks, settings = Forks(), dict(os.environ)
        running = [
            forks.start(stack.run_all, settings, ["replicate"], today, f"backfill {n}", (str(one), str(other)))
            for n, (one, other) in enumerate(windows)
        ]
        assert forks.join_all(running)
        ground.assert_exact(warehouse, "replicate")
    tell("C7", "exact at once, nothing twice")


def test_the_same_task_twice(ground: Ground, tell: Tell) -> None:
    tell("C8 google_vertex_ai: Airflow runs the same task twice at the same time, and once again")
    with ground.warehouse() as warehouse:
        forks, settings = Forks(), dict(os.environ)
        running = [
            forks.start(stack.run_all, settings, ["google_vertex_ai"], ground.today, "the same run") for _ in range(2)
        ]
        assert forks.join_all(running)
        ground.assert_exact(warehouse, "google_vertex_ai")
        ground.sync("google_vertex_ai", "the same run")
        ground.assert_exact(warehouse, "google_vertex_ai")
    tell("C8", "exact at once, nothing twice")


ANSWERS = [
    ("C14", "the disk is full", "53100"),
    ("C15", "there are too many connections", "53300"),
    ("C16", "a deadlock", "40P01"),
    ("C16", "a serialization failure", "40001"),
]


@pytest.mark.parametrize(("number", "what", "sqlstate"), ANSWERS)
def test_a_database_that_refuses(ground: Ground, tell: Tell, number: str, what: str, sqlstate: str) -> None:
    tell(f"{number} anthropic: PostgreSQL says in the middle of a load: {what}")
    with ground.warehouse() as warehouse:
        # PostgreSQL itself raises it, at the point where the new version becomes the current one.
        warehouse.query(
            f"""
            create function ops.refuse() returns trigger language plpgsql as
            $$ begin raise exception 'as the scenario demands' using errcode = '{sqlstate}'; end $$;
            create trigger refuse after insert on ops.load for each row execute function ops.refuse()
            """
        )
        failures = ground.sync("anthropic", "refused")
        assert failures
        assert all(isinstance(failure, WarehouseUnavailable) for failure in failures), failures
        assert_same(stack.content(warehouse, "anthropic"), ground.before["anthropic"])
        warehouse.query("drop trigger refuse on ops.load")
        ground.heal(warehouse, "anthropic")
    tell(number, f"tried again by Airflow, everything untouched; {CLEAN}")


def test_no_more_logins(ground: Ground, tell: Tell) -> None:
    tell("C15 fireworks: PostgreSQL takes no more logins")
    with ground.warehouse() as warehouse:
        name = warehouse.warehouse.dbname
        warehouse.query(f"alter database {name} connection limit 0")
        with pytest.raises(WarehouseUnavailable):
            ground.sync("fireworks", "refused")
        warehouse.query(f"alter database {name} connection limit -1")
        assert_same(stack.content(warehouse, "fireworks"), ground.before["fireworks"])
        ground.heal(warehouse, "fireworks")
    tell("C15", f"tried again by Airflow, everything untouched; {CLEAN}")


def test_a_database_that_is_not_there(ground: Ground, tell: Tell) -> None:
    tell("C18 replicate: no PostgreSQL at the address")
    with ground.warehouse() as warehouse:
        here = warehouse.warehouse
        with pytest.MonkeyPatch.context() as elsewhere:
            address = f"postgresql://{here.user}:{here.password}@127.0.0.1:9/{here.dbname}"
            elsewhere.setenv("AIRFLOW_CONN_AI_USAGE_WAREHOUSE", address)
            ground.sandbox.requests.reset()
            with pytest.raises(WarehouseUnavailable) as refused:
                ground.sync("replicate", "refused")
        assert here.password not in str(refused.value)
        assert ground.sandbox.requests.count() == 0
        ground.heal(warehouse, "replicate")
    tell("C18", f"nothing asked of the provider, tried again by Airflow; {CLEAN}")


def test_one_connection_that_is_wrong(ground: Ground, tell: Tell) -> None:
    tell("C19 fireworks: one connection of two is wrongly filled in")
    with ground.warehouse() as warehouse:
        with pytest.MonkeyPatch.context() as wrong:
            stack.move_connection(wrong, "fireworks_lab", "http://example.com/plain")
            failures = ground.sync("fireworks", "faulty")
            assert [failure.connection_id for failure in failures] == ["fireworks_lab"]
            (problem,) = [one for one in stack.open_problems(warehouse) if one.kind == "configuration_invalid"][:1]
            assert problem.connection_id == "fireworks_lab"
            now = stack.content(warehouse, "fireworks")
            for slot, here in now.items():
                expected = ground.before if slot.connection_id == "fireworks_lab" else ground.after
                assert here == expected["fireworks"][slot]
        ground.heal(warehouse, "fireworks")
    tell("C19", "configuration_invalid told of it alone, the other exact; exact once it is corrected")


def test_a_source_without_a_connection(ground: Ground, tell: Tell) -> None:
    tell("C20 anthropic: the connections are taken away")
    with ground.warehouse() as warehouse:
        with pytest.MonkeyPatch.context() as without:
            without.delenv("AIRFLOW_CONN_ANTHROPIC_DEFAULT")
            listed = json.loads(os.environ["AIRFLOW_VAR_AI_USAGE_CONNECTIONS"])
            del listed["anthropic"]
            without.setenv("AIRFLOW_VAR_AI_USAGE_CONNECTIONS", json.dumps(listed))
            assert ground.sync("anthropic", "without") == []
        assert_same(stack.content(warehouse, "anthropic"), ground.before["anthropic"])
        ground.heal(warehouse, "anthropic")
    tell("C20", "no failure and no zero, history untouched; exact once they are back")


def test_clocks_that_are_ahead(ground: Ground, tell: Tell) -> None:
    tell("C23 anthropic: the machine's clock is two days ahead")
    with ground.warehouse() as warehouse:
        stack.run("anthropic", ground.today + timedelta(days=2), "ahead")
        assert not ground.sync("anthropic", "healed")
        now = {
            slot: held
            for slot, held in stack.content(warehouse, "anthropic").items()
            if slot.usage_date <= ground.today
        }
        assert_same(now, ground.after["anthropic"])
        ahead = warehouse.query("select distinct state from ops.slice where usage_date > %s", ground.today)
        assert set(ahead) <= {("provisional",), ("missing",), ("failed",)}, "a day that has not begun counts as settled"
    tell("C23", "exact, and no day that has not begun counts as settled")


def test_transforms_that_are_killed_or_meet(ground: Ground, tell: Tell, target: Path, own_cluster: Cluster) -> None:
    tell("C11 all: a transform that is killed, one whose database is killed, and two at once")
    forks, warehouse = Forks(), ground.later.warehouse
    for strike in ("transform", "database"):
        process = forks.start(transform_quietly, warehouse, f"{strike} killed", target)
        _wait_for_a_model(ground.later)
        if strike == "transform":
            process.kill()
        else:
            own_cluster.postgres.kill()
        forks.join(process)
        own_cluster.postgres.start()
    running = [forks.start(transform_quietly, warehouse, f"at once {n}", target) for n in range(2)]
    assert forks.join_all(running)
    assert ground.later.query("select count(*) from ops.pending_rebuild") == [(0,)]
    assert_marts_are_true(ground, target, PROVIDERS)
    tell("C11", "marts equal the truth, to the last digit")


def _wait_for_a_model(warehouse: TestWarehouse) -> None:
    """Wait until dbt writes."""
    import time

    for _ in range(600):
        if warehouse.query("select 1 from pg_stat_activity where application_name = 'ai_usage_transform' limit 1"):
            return
        time.sleep(0.1)
    raise AssertionError("dbt never came to the database")
