"""The sandbox as a newcomer meets it: control endpoints, connections, commands."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from sandbox import Sandbox, SandboxError, simulators
from sandbox.http import LOOPBACK

Connect = Callable[..., Any]
Call = Callable[..., Any]
ROOT = Path(__file__).parents[2]
TODAY = date(2026, 8, 15)
DOUBLE = "aws_bedrock_research"


@contextmanager
def serving(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command line's server; yield the process and the address it printed."""
    command = [sys.executable, "-m", "sandbox", "serve", "--port", "0", "--moto-port", "0", "--seed", "7"]
    process = subprocess.Popen(
        [*command, "--today", TODAY.isoformat(), "--history-days", "5", "--state-folder", str(folder), *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"AWS_PROFILE": "not-there", "HTTP_PROXY": "http://127.0.0.1:9"},
    )
    assert process.stdout
    try:
        first = process.stdout.readline()
        assert first.startswith("sandbox ready: "), first + process.stdout.read()
        yield process, first.split()[-1]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def test_every_simulator_has_its_truth_and_the_other_way_round(sandbox: Sandbox) -> None:
    assert simulators.names() == sorted(sandbox.truth.providers) == sorted(sandbox.simulators)


def test_health_says_which_world_this_is(sandbox: Sandbox, call: Call) -> None:
    status, health = call(f"{sandbox.url}/_health")

    assert (status, health["today"], health["seed"], health["simulators"]) == (
        200,
        "2026-08-15",
        7,
        simulators.names(),
    )


def test_the_truth_over_http_is_the_truth(sandbox: Sandbox, call: Call) -> None:
    asked = f"{sandbox.url}/_truth?provider=aws_bedrock&first=2026-08-01&last=2026-08-15"
    first, last = date(2026, 8, 1), TODAY

    def as_json(rows: list[dict[str, Any]]) -> Any:
        return json.loads(json.dumps(rows, default=str))

    assert call(asked)[1] == as_json(sandbox.truth.expected_usage_daily("aws_bedrock", first, last))
    one = sandbox.truth.expected_detail("aws_bedrock", first, last, ["210987654321"])
    assert call(f"{asked}&grain=detail&accounts=210987654321")[1] == as_json(one)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/_truth?provider=aws_bedrock&first=2026-08-01", 400),
        ("GET", "/_truth?provider=aws_bedrock&first=soon&last=2026-08-01", 400),
        ("GET", "/_truth?provider=nobody&first=2026-08-01&last=2026-08-01", 400),
        ("GET", "/_nothing", 404),
        ("POST", "/_truth", 404),
        ("GET", "/nobody/v1/usage", 404),
        ("DELETE", "/_faults?number=x", 400),
        ("POST", "/_restate", 400),
    ],
)
def test_what_cannot_be_answered_is_explained(
    sandbox: Sandbox, call: Call, method: str, path: str, status: int
) -> None:
    answered, content = call(f"{sandbox.url}{path}", method)

    assert answered == status
    assert content["error"]


def test_a_request_without_a_signature_is_refused_as_aws_does(sandbox: Sandbox, call: Call) -> None:
    status, content = call(f"{sandbox.url}/aws_bedrock/", "POST", {})

    assert (status, content["__type"].rpartition("#")[2]) == (403, "MissingAuthenticationToken")
    assert sandbox.requests.count(account="unknown") == 1


def test_requests_are_counted_by_whom_and_what(sandbox: Sandbox, connect: Connect, call: Call) -> None:
    for region in ("us-east-1", "us-east-1", "us-west-2"):
        connect(sandbox, DOUBLE, region).list_metrics()
    connect(sandbox, DOUBLE, "us-west-2", "sts").get_caller_identity()

    assert call(f"{sandbox.url}/_requests")[1] == {
        "total": 4,
        "calls": {
            "aws_bedrock": {
                "210987654321": {
                    "us-east-1": {"ListMetrics": 2},
                    "us-west-2": {"GetCallerIdentity": 1, "ListMetrics": 1},
                }
            }
        },
    }
    assert sandbox.requests.count(operation="ListMetrics") == 3
    call(f"{sandbox.url}/_requests", "DELETE")
    assert sandbox.requests.count() == 0


def test_no_request_is_lost_when_many_come_at_once(sandbox: Sandbox, connect: Connect) -> None:
    clients = [connect(sandbox, DOUBLE, "us-east-1") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda client: [client.list_metrics() for _ in range(10)], clients))

    assert sandbox.requests.count() == 80


def test_a_kept_alive_call_does_not_wait_for_nagle(sandbox: Sandbox, connect: Connect) -> None:
    client = connect(sandbox, DOUBLE, "us-east-1", "sts")
    client.get_caller_identity()

    def took() -> float:
        began = time.perf_counter()
        client.get_caller_identity()
        return time.perf_counter() - began

    assert sorted(took() for _ in range(15))[7] < 0.02


def test_only_loopback_is_listened_on(sandbox: Sandbox) -> None:
    assert sandbox.url.startswith(f"http://{LOOPBACK}:")
    port = int(sandbox.url.rpartition(":")[2])
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.2", port)) != 0


def test_a_taken_port_is_named(sandbox: Sandbox) -> None:
    port = int(sandbox.url.rpartition(":")[2])

    with pytest.raises(SandboxError, match=f"Port {port} cannot be used.*--port"):
        Sandbox(port=port, moto=False)
    with pytest.raises(SandboxError, match=f"Port {port} cannot be used.*--moto-port"):
        Sandbox(moto_port=port).start()


def test_stopping_frees_the_port() -> None:
    with Sandbox(moto=False) as first:
        port = int(first.url.rpartition(":")[2])
    with Sandbox(moto=False, port=port) as second:
        assert second.url == first.url


def test_connections_say_what_they_are_and_hold_nothing_real(sandbox: Sandbox) -> None:
    connections = {connection["connection_id"]: connection for connection in sandbox.connections()}
    connection = connections[DOUBLE]

    assert connection["conn_type"] == "aws"
    assert connection["description"].startswith("AI usage sandbox")
    assert connection["extra"]["regions"] == ["us-east-1", "us-west-2", "eu-central-1"]
    assert connection["extra"]["start_date"] == "2026-07-07"
    assert connection["extra"]["model_ids"] == ["meta.llama3-1-8b-instruct-v1:0"]
    assert not connection["login"].startswith(("AKIA", "ASIA"))
    assert "not-a-real-secret" in connection["password"]
    assert sandbox.variable()["aws_bedrock"] == [DOUBLE]
    for connection in connections.values():
        assert connection["description"].startswith("AI usage sandbox"), connection["connection_id"]
        assert connection["extra"]["start_date"] == "2026-07-07", connection["connection_id"]


def test_the_command_serves_prints_connections_and_stops_when_told(tmp_path: Path, call: Call) -> None:
    with serving(tmp_path / "a b") as (process, url):
        printed = subprocess.run(
            [sys.executable, "-m", "sandbox", "connections", "--url", url, "--env"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        lines = dict(line.split("=", 1) for line in printed.splitlines())
        default = json.loads(shlex.split(lines["AIRFLOW_CONN_AWS_BEDROCK_DEFAULT"])[0])
        moto = default["extra"]["service_config"]["cloudwatch"]["endpoint_url"]
        assert default["extra"]["account_id"] == "123456789012"
        assert moto != url
        assert json.loads(shlex.split(lines["AIRFLOW_VAR_AI_USAGE_CONNECTIONS"])[0])["aws_bedrock"] == [DOUBLE]
        assert call(f"{url}/_health")[1]["today"] == "2026-08-15"

        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        assert process.stdout
        assert process.stdout.read().splitlines()[-1] == "sandbox stopped"


def test_restatements_outlive_the_process_even_when_it_is_killed(tmp_path: Path, call: Call) -> None:
    day = (TODAY - timedelta(days=2)).isoformat()
    restatement = {
        "provider": "aws_bedrock",
        "account": "123456789012",
        "region": "us-east-1",
        "day": day,
        "factor": 2,
    }
    asked = f"/_truth?provider=aws_bedrock&first={day}&last={day}"
    with serving(tmp_path) as (process, url):
        before = call(url + asked)[1]
        assert call(f"{url}/_restate", "POST", restatement)[0] == 200
        after = call(url + asked)[1]
        process.kill()
    with serving(tmp_path) as (process, url):
        assert call(url + asked)[1] == after != before
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0


def test_asking_a_sandbox_that_is_not_there_is_explained() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "connections", "--url", "http://127.0.0.1:9"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert "No sandbox answers at http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
