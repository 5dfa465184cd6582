"""The few calls to Airflow's REST API that the launcher makes, as the user a person would be."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import requests

from launcher.errors import LauncherError

_TIMEOUT = (3.05, 20)
_PAGE = 100


class ApiUnavailableError(LauncherError):
    """The API server does not answer, or answers with an error of its own; worth another try."""


class AirflowApi:
    """A client that logs in when it has to."""

    def __init__(self, url: str, user: str, password: str) -> None:
        """Take the UI's address and a login."""
        self._url = url
        self._login = {"username": user, "password": password}
        self._session = requests.Session()
        # A proxy or a .netrc of the user has no part in a call to this machine.
        self._session.trust_env = False

    def health(self) -> dict[str, datetime | None]:
        """Return component → its latest heartbeat; None for what has none (the API server's own database session)."""
        answer = self._send("GET", "/api/v2/monitor/health", signed=False)
        return {
            name: _latest_heartbeat(part) for name, part in answer.items() if isinstance(part, dict) and part["status"]
        }

    def connections(self) -> list[dict[str, Any]]:
        """Return all connections of the metadata database, secrets masked."""
        return self._list("/api/v2/connections", "connections")

    def put_connection(self, connection: dict[str, Any], *, exists: bool) -> None:
        """Create a connection, or replace the one of the same id."""
        identity = quote(connection["connection_id"], safe="")
        if exists:
            self._send("PATCH", f"/api/v2/connections/{identity}", connection)
        else:
            self._send("POST", "/api/v2/connections", connection)

    def delete_connection(self, connection_id: str) -> None:
        """Delete a connection."""
        self._send("DELETE", f"/api/v2/connections/{quote(connection_id, safe='')}")

    def variable(self, key: str) -> str | None:
        """Return a Variable's value, or None when there is none."""
        answer = self._send("GET", f"/api/v2/variables/{quote(key, safe='')}", allow_missing=True)
        return None if answer is None else str(answer["value"])

    def put_variable(self, key: str, value: str, description: str, *, exists: bool) -> None:
        """Create or replace a Variable."""
        body = {"key": key, "value": value, "description": description}
        path = f"/api/v2/variables/{quote(key, safe='')}" if exists else "/api/v2/variables"
        self._send("PATCH" if exists else "POST", path, body)

    def dags(self) -> list[dict[str, Any]]:
        """Return the DAGs that have been parsed and are still there."""
        return self._list("/api/v2/dags", "dags")

    def import_errors(self) -> dict[str, str]:
        """Return file → traceback of the DAG files that do not load."""
        errors = self._list("/api/v2/importErrors", "import_errors")
        return {str(error["filename"]): str(error["stack_trace"]) for error in errors}

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run."""
        self._send("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, note: str) -> str:
        """Start a run and return its id."""
        answer = self._send("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "note": note})
        return str(answer["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return one run."""
        answer: dict[str, Any] = self._send("GET", f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}")
        return answer

    def latest_runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the newest runs of a DAG, newest first."""
        answer = self._send("GET", f"/api/v2/dags/{dag_id}/dagRuns?order_by=-run_after&limit=10")
        return list(answer["dag_runs"])

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run, mapped ones each on its own."""
        return self._list(f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances", "task_instances")

    def task_log(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the log of a task's last try as events: ``event``, ``level`` and more."""
        run_id = quote(str(task["dag_run_id"]), safe="")
        path = f"/api/v2/dags/{task['dag_id']}/dagRuns/{run_id}/taskInstances/{task['task_id']}"
        answer = self._send("GET", f"{path}/logs/{task['try_number']}?map_index={task['map_index']}&full_content=true")
        return [event for event in answer.get("content", []) if isinstance(event, dict)]

    def _list(self, path: str, field: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            answer = self._send("GET", f"{path}?limit={_PAGE}&offset={len(found)}")
            found += answer[field]
            if len(found) >= int(answer["total_entries"]) or not answer[field]:
                return found

    def _send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        signed: bool = True,
        allow_missing: bool = False,
    ) -> Any:
        if signed and "Authorization" not in self._session.headers:
            self._log_in()
        answer = self._call(method, path, body)
        if answer.status_code == requests.codes.unauthorized and signed:
            self._log_in()
            answer = self._call(method, path, body)
        if answer.status_code == requests.codes.not_found and allow_missing:
            return None
        if answer.status_code >= 500:
            raise ApiUnavailableError(f"Airflow's API answered {answer.status_code} to {method} {path}.")
        if not answer.ok:
            # The body of a refusal repeats what was sent, which may hold a secret: only its own words are shown.
            raise LauncherError(f"Airflow's API refused {method} {path}: {answer.status_code} {_detail(answer)}")
        return answer.json() if answer.content else None

    def _log_in(self) -> None:
        self._session.headers.pop("Authorization", None)
        answer = self._call("POST", "/auth/token", self._login)
        if answer.status_code >= 500:
            raise ApiUnavailableError(f"Airflow's API answered {answer.status_code} to a login.")
        if not answer.ok:
            raise LauncherError(
                f"Airflow refused our own login ({answer.status_code}).", action="Run `make run` again."
            )
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> requests.Response:
        data = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            return self._session.request(method, self._url + path, data=data, headers=headers, timeout=_TIMEOUT)
        except requests.RequestException as error:
            raise ApiUnavailableError(
                f"Airflow's API at {self._url} does not answer ({type(error).__name__})."
            ) from None


def _latest_heartbeat(part: dict[str, Any]) -> datetime | None:
    beats = [value for name, value in part.items() if name.startswith("latest_")]
    if not beats:
        return None
    return datetime.fromisoformat(beats[0]) if beats[0] else datetime.min.replace(tzinfo=UTC)


def _detail(answer: requests.Response) -> str:
    try:
        detail = answer.json().get("detail", "")
    except (ValueError, AttributeError):
        return ""
    if isinstance(detail, list):
        return "; ".join(f"{'.'.join(map(str, item.get('loc', [])))}: {item.get('msg', '')}" for item in detail)
    return str(detail)
