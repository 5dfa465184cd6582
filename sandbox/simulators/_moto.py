"""
moto's CloudWatch server in this process, on a port of its own, filled through ``PutMetricData``.

Its answers are moto's. In front of it stands only a gate that counts calls, checks who calls, and refuses where a fault
says so.

moto keeps one world per process, and forgets nothing but everything: to restate a day, it is emptied and filled again
while callers wait at the gate.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from http.client import HTTPConnection
from io import BytesIO
from itertools import islice
from threading import Lock, Thread
from typing import Any

from sandbox.contract import Answer
from sandbox.errors import SandboxError
from sandbox.http import LOOPBACK, Request, Response
from sandbox.truth import days_between
from sandbox.truth.aws_bedrock import DECOY_DAYS_IN_MOTO, Account, AwsBedrockTruth

BATCH = 1000
"""Data per PutMetricData call: as many as the real one takes."""
SEEDER = "SANDBOXSEEDERKEY"

_one_world = Lock()


class MotoServer:
    """
    moto's server for one account.

    :param port: the port to take; 0 for any free one.
    :param serve: lets a call through to an answer, counted and perhaps refused.
    """

    def __init__(
        self,
        truth: AwsBedrockTruth,
        account: Account,
        port: int,
        serve: Callable[[Request, Answer], Response],
    ) -> None:
        self._truth = truth
        self._account = account
        self._port = port
        self._serve = serve
        self._seeding = Lock()
        self._seeded: tuple[date, int] | None = None
        self._server: Any = None
        self._thread: Thread | None = None

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://{LOOPBACK}:{self._port}"

    def start(self) -> None:
        """
        Start moto and fill it.

        :raises SandboxError: the port is taken, or moto runs in this process already.
        """
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        class Handler(MotoRequestHandler):  # type: ignore[misc]
            wbufsize = -1
            disable_nagle_algorithm = True

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Say nothing: ``/_requests`` counts."""

        if not _one_world.acquire(blocking=False):
            raise SandboxError("moto keeps one world per process: stop the other sandbox, or start this without moto.")
        try:
            # werkzeug leaves the whole process when it finds the port taken, hence a socket of our own.
            with _listening(self._port) as listening:
                self._port = listening.getsockname()[1]
                logging.getLogger("werkzeug").setLevel(logging.WARNING)
                self._moto = DomainDispatcherApplication(create_backend_app)
                self._server = make_server(
                    LOOPBACK, self._port, self._gate, threaded=True, request_handler=Handler, fd=listening.fileno()
                )
        except BaseException:
            _one_world.release()
            raise
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), name="sandbox-moto", daemon=True)
        self._thread.start()
        try:
            with self._seeding:
                self._seed_if_stale()
        except BaseException:
            self.stop()
            raise
        self._truth.world.restatements.subscribe(self._refresh)

    def stop(self) -> None:
        """Stop moto and free the port."""
        if self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._thread = None
        _one_world.release()

    def _refresh(self) -> None:
        if self._thread is not None:
            with self._seeding:
                self._seed_if_stale()

    def _gate(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        from werkzeug.wrappers import Request as WsgiRequest
        from werkzeug.wrappers import Response as WsgiResponse

        incoming = WsgiRequest(environ)
        if SEEDER in incoming.headers.get("Authorization", "") or incoming.path.startswith("/moto-api/"):
            return self._moto(environ, start_response)  # type: ignore[no-any-return]
        request = Request(
            method=incoming.method,
            path=incoming.path,
            target=environ.get("RAW_URI") or incoming.full_path.rstrip("?"),
            headers={name.lower(): value for name, value in incoming.headers.items()},
            body=incoming.get_data(cache=False),
        )
        environ["wsgi.input"] = BytesIO(request.body)  # it has been read to its end, and moto wants to read it too

        def ask_moto(*_: Any) -> Response:
            # One at a time: nobody may see moto half filled, and moto itself takes no care of threads.
            with self._seeding:
                self._seed_if_stale()
                answer = WsgiResponse.from_app(self._moto, environ, buffered=True)
            return Response(answer.status_code, answer.get_data(), dict(answer.headers))

        answer = self._serve(request, ask_moto)
        return WsgiResponse(answer.body, answer.status, dict(answer.headers))(environ, start_response)

    def _seed_if_stale(self) -> None:
        """Empty moto and fill it with the truth, if the truth changed since, or the day."""
        world = self._truth.world
        due = (world.clock.today(), world.restatements.version)
        if self._seeded == due:
            return
        self._post_reset()
        for region in self._account.regions:
            client = self._client(region)
            data = self._data(region)
            while batch := list(islice(data, BATCH)):
                for namespace in dict.fromkeys(name for name, _ in batch):
                    client.put_metric_data(
                        Namespace=namespace, MetricData=[datum for name, datum in batch if name == namespace]
                    )
        self._seeded = due

    def _data(self, region: str) -> Iterator[tuple[str, dict[str, Any]]]:
        today = self._truth.world.clock.today()
        opened = min(self._truth.world.opened, today)
        # Decoys for the last days only: moto searches everything it has for every answer.
        decoys_from = list(days_between(opened, today))[-DECOY_DAYS_IN_MOTO:][0]
        for series in self._truth.series(self._account, region, opened, today):
            for day, total in series.daily.items():
                if series.decoy and day < decoys_from:
                    continue
                for moment, value in self._truth.points(day, total):
                    yield (
                        series.namespace,
                        {
                            "MetricName": series.name,
                            "Dimensions": [{"Name": name, "Value": held} for name, held in series.dimensions],
                            "Timestamp": moment,
                            "Value": float(value),
                            "Unit": series.unit,
                        },
                    )

    def _client(self, region: str) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "cloudwatch",
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id=SEEDER,
            aws_secret_access_key="sandbox-only-not-a-real-secret",
            # Without any proxies of its own, botocore asks the environment for some.
            config=Config(disable_request_compression=True, proxies={"for": "no address at all"}),
        )

    def _post_reset(self) -> None:
        connection = HTTPConnection(LOOPBACK, self._port, timeout=30)
        try:
            connection.request("POST", "/moto-api/reset")
            connection.getresponse().read()
        finally:
            connection.close()


def _listening(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
    except OSError as error:
        listening.close()
        raise SandboxError(
            f"Port {port} cannot be used ({error.strerror}). Choose another with --moto-port."
        ) from error
    listening.listen(128)
    return listening
