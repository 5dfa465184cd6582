"""AWS Bedrock from the sandbox to the warehouse, the way Airflow's tasks do it, without Airflow's processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from typing import Any

from ai_usage import providers
from ai_usage.core.errors import UsageError
from ai_usage.orchestration import sync
from ai_usage.orchestration.sources import discover
from ai_usage.orchestration.warehouse_connection import open_warehouse
from sandbox.service import Sandbox
from sandbox.truth.aws_bedrock import RESEARCH, AwsBedrockTruth
from tests.support.warehouse import TestWarehouse

PROVIDER = "aws_bedrock"
DOUBLE = "aws_bedrock_research"
"""The connection that reads the sandbox's own double of CloudWatch."""
Stored = dict[tuple[Any, ...], dict[str, int]]


def run(
    environment: Mapping[str, str], today: date, run_id: str, request: sync.Request | None = None
) -> list[UsageError]:
    """Run plan and every piece of work with the connections of ``environment``; return the failures."""
    os.environ.update(environment)
    provider, warehouse = providers.load(PROVIDER), open_warehouse()
    asked = request or sync.Request(connections=[DOUBLE])
    failures = []
    for piece in sync.plan(provider, warehouse, discover(provider), asked, today):
        try:
            sync.extract_and_load(provider, warehouse, piece, run_id)
        except UsageError as error:
            failures.append(error)
    return failures


def run_or_exit(environment: Mapping[str, str], today: date, run_id: str) -> None:
    """Run as a process of its own, which ends badly if anything failed."""
    if failures := run(environment, today, run_id):
        raise SystemExit(str(failures[0]))


def stored(warehouse: TestWarehouse) -> Stored:
    """Return what readers of raw see: (day, region, namespace, model id) → metrics. No record may be there twice."""
    rows = warehouse.query(
        """
        select usage_date, record ->> 'region', record ->> 'namespace', record ->> 'model_id', record -> 'metrics'
        from raw.aws_bedrock_metrics inner join ops.load using (load_id, usage_date)
        where superseded_by is null
        """
    )
    seen = {tuple(row[:4]): row[4] for row in rows}
    assert len(seen) == len(rows), "a record is stored twice"
    return seen


def truth(sandbox: Sandbox, first: date, last: date) -> Stored:
    """Return what readers of raw should see of the double's account."""
    known = sandbox.truth.of(PROVIDER)
    assert isinstance(known, AwsBedrockTruth)
    return {
        (day, endpoint.region, endpoint.namespace, endpoint.model_id): values
        for endpoint in RESEARCH.endpoints
        for day in (date.fromordinal(n) for n in range(first.toordinal(), last.toordinal() + 1))
        if (values := known.values(RESEARCH, endpoint, day))
    }
