"""Follow DAG runs to their end and say what happens in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from launcher.airflow_api import AirflowApi, ApiUnavailableError
from launcher.errors import LauncherError
from launcher.terminal import Terminal

Answer = TypeVar("Answer")

_DONE = ("success", "failed")
_POLL_SECONDS = 1.0
# The API server may be on its way up again; a minute and a half of silence is something else.
_PATIENCE = 90


@dataclass(frozen=True)
class Watch:
    """One run to follow."""

    dag_id: str
    run_id: str


class Follower:
    """Polls runs and prints what changes."""

    def __init__(self, api: AirflowApi, terminal: Terminal, pause: Callable[[float], None], logs: Path) -> None:
        """Take ``pause``, which waits and keeps the processes alive meanwhile, and Airflow's log folder."""
        self._api = api
        self._terminal = terminal
        self._pause = pause
        self._logs = logs
        self._tasks: dict[str, list[str]] = {}

    def follow(self, watches: list[Watch]) -> bool:
        """Follow the runs until the last has ended; True when all succeeded."""
        shown: dict[str, str] = {}
        waiting = list(watches)
        succeeded = True
        while waiting:
            for watch in list(waiting):
                state, tasks = self.patiently(partial(self._look, watch))
                summary = self._summary(watch, state, tasks)
                if summary != shown.get(watch.run_id):
                    shown[watch.run_id] = summary
                    self._terminal.note(f"{watch.dag_id}: {summary}")
                if state in _DONE:
                    waiting.remove(watch)
                if state == "failed":
                    succeeded = False
                    self._explain(tasks)
            if waiting:
                self._terminal.progress(f"… {', '.join(f'{one.dag_id} {shown[one.run_id]}' for one in waiting)}")
                self._pause(_POLL_SECONDS)
        return succeeded

    def patiently(self, ask: Callable[[], Answer]) -> Answer:
        """Ask again for a while when the API server does not answer, as it does while it is restarted."""
        for _ in range(_PATIENCE):
            try:
                return ask()
            except ApiUnavailableError:
                self._pause(1.0)
        return ask()

    def _look(self, watch: Watch) -> tuple[str, list[dict[str, Any]]]:
        state = str(self._api.run(watch.dag_id, watch.run_id)["state"])
        return state, self._api.task_instances(watch.dag_id, watch.run_id)

    def _summary(self, watch: Watch, state: str, tasks: list[dict[str, Any]]) -> str:
        """Return one line such as ``running · plan ok · extract_load 2/5 ok``, tasks in the order they began."""
        order = self._tasks.setdefault(watch.run_id, [])
        order += [task_id for task_id in _begun(tasks) if task_id not in order]
        states = {task_id: [task["state"] for task in tasks if task["task_id"] == task_id] for task_id in order}
        return " · ".join([state, *(f"{task_id} {_task_summary(states[task_id])}" for task_id in order)])

    def _explain(self, tasks: list[dict[str, Any]]) -> None:
        for task in tasks:
            if task["state"] != "failed":
                continue
            label = task.get("rendered_map_index")
            name = f"{task['dag_id']}.{task['task_id']}" + (f" [{label}]" if label else "")
            self._terminal.say(f"    failed: {name}: {self._reason(task)}")
            self._terminal.say(f"            log: {log_file(self._logs, task)}")

    def _reason(self, task: dict[str, Any]) -> str:
        try:
            events = self._api.task_log(task)
        except LauncherError as error:
            return f"(its log could not be read: {error})"
        return reason(events) or "it left no message"


def reason(events: list[dict[str, Any]]) -> str:
    """Return the message with which a task failed, from the events of its log."""
    for event in reversed(events):
        details = event.get("error_detail")
        if isinstance(details, list) and details and isinstance(details[-1], dict):
            return str(details[-1].get("exc_value") or details[-1].get("exc_type"))
    errors = [str(event.get("event")) for event in events if event.get("level") in ("error", "critical")]
    return errors[-1] if errors else ""


def log_file(logs: Path, task: dict[str, Any]) -> Path:
    """Return where Airflow keeps the log of a task's last try."""
    folder = logs / f"dag_id={task['dag_id']}" / f"run_id={task['dag_run_id']}" / f"task_id={task['task_id']}"
    if int(task["map_index"]) >= 0:
        folder /= f"map_index={task['map_index']}"
    return folder / f"attempt={task['try_number']}.log"


def _begun(tasks: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(task["task_id"]) for task in tasks if task["state"]))


def _task_summary(states: list[str | None]) -> str:
    failed = sum(state in ("failed", "upstream_failed") for state in states)
    done = sum(state in ("success", "skipped") for state in states)
    if len(states) == 1:
        return "ok" if states[0] == "success" else str(states[0])
    return f"{done}/{len(states)} ok" + (f", {failed} failed" if failed else "")
