"""Syncs in processes of their own, which may be killed, and whose database may be killed under them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.process import BaseProcess

from sandbox.service import Sandbox
from tests.support import stack
from tests.support.killing_proxy import KillingProxy
from tests.support.warehouse import TestWarehouse

PRELOADED = [
    "tests.support.stack",
    "airflow.providers.amazon.aws.hooks.base_aws",
    "ai_usage.orchestration.client_kinds.azure",
    "ai_usage.orchestration.client_kinds.google",
    "google.oauth2.service_account",
    "google.auth.transport.requests",
]
PATIENCE = 240


class Forks:
    """Processes forked from a server that has imported everything: each starts in milliseconds, and shares no thread."""

    def __init__(self) -> None:
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(PRELOADED)

    def start(self, what: Callable[..., None], *arguments: object) -> BaseProcess:
        """Begin."""
        process = self._processes.Process(target=what, args=arguments)
        process.start()
        return process

    def run(self, what: Callable[..., None], *arguments: object) -> bool:
        """Begin, wait for the end, and tell whether it was a good one."""
        return self.join(self.start(what, *arguments))

    @staticmethod
    def join(process: BaseProcess) -> bool:
        """Wait for the end, and tell whether it was a good one."""
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"a process did not end within {PATIENCE} s")
        return process.exitcode == 0

    @classmethod
    def join_all(cls, processes: Iterable[BaseProcess]) -> bool:
        """Wait for the end of every one, and tell whether all were good."""
        ends = [cls.join(process) for process in processes]
        return all(ends)


class Victim:
    """Runs syncs in processes of their own."""

    def __init__(self, warehouse: TestWarehouse, sandbox: Sandbox, proxy: KillingProxy) -> None:
        here = warehouse.warehouse
        self._settings = warehouse.environment() | stack.connections(sandbox)
        self._through_proxy = {
            "AIRFLOW_CONN_AI_USAGE_WAREHOUSE": (
                f"postgresql://{here.user}:{here.password}@127.0.0.1:{proxy.port}/{here.dbname}"
            )
        }
        self._today = sandbox.clock.today()
        self._proxy = proxy
        self._forks = Forks()

    def sync(self, names: Sequence[str], run_id: str) -> bool:
        """Sync some providers; tell whether the process lived to its end."""
        return self._forks.join(self._start(names, run_id))

    def sync_killed(
        self, names: Sequence[str], run_id: str, kill_at: int, strike: Callable[[], None] | None = None
    ) -> bool:
        """The same, struck before its message number ``kill_at`` to PostgreSQL, unless it ends before."""
        self._proxy.arm(kill_at)
        self._proxy.strike = strike
        process = self._start(names, run_id, self._through_proxy)
        self._proxy.victim = process.pid
        lived = self._forks.join(process)
        self._proxy.rest()
        return lived

    def sync_at_once(self, names: Sequence[Sequence[str]], run_id: str) -> bool:
        """Sync in several processes at the same time."""
        processes = [self._start(some, f"{run_id} {n}") for n, some in enumerate(names)]
        return self._forks.join_all(processes)

    def _start(self, names: Sequence[str], run_id: str, more: Mapping[str, str] | None = None) -> BaseProcess:
        settings = self._settings | dict(more or {})
        return self._forks.start(stack.run_all, settings, list(names), self._today, run_id)
