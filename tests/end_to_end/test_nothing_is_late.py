"""After a good run of every provider nothing counts as late, whatever way a provider has of giving its days."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ai_usage import providers
from ai_usage.core.http import Limits
from ai_usage.core.http_provider import HttpProvider
from ai_usage.orchestration import lateness, sync
from ai_usage.orchestration.sources import discover
from tests.support.warehouse import TestWarehouse

pytestmark = pytest.mark.timeout(600)

HISTORY_DAYS = 6


@pytest.fixture(autouse=True)
def without_pace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for provider in providers.load_all():
        if isinstance(provider, HttpProvider):
            monkeypatch.setattr(type(provider), "limits", Limits())
    yield


def test_after_a_good_run_of_every_provider_nothing_is_late(connected: TestWarehouse) -> None:
    for provider in providers.load_all():
        for work in sync.plan(provider, connected.warehouse, discover(provider), {}):
            sync.extract_and_load(provider, connected.warehouse, work, "run")
    # New places have time; these are not new.
    connected.query("update ops.scope set first_seen_at = first_seen_at - interval '9 days'")

    lateness.watch(connected.warehouse)

    assert connected.query("select distinct provider from ops.connection order by 1") == [
        (name,) for name in providers.names()
    ]
    assert connected.query("select connection_id, scope, message from ops.problem where topic = 'lateness'") == []
    # It can fail: the same places, had nobody read the last days.
    connected.query("delete from ops.slice where usage_date > current_date - 4")
    lateness.watch(connected.warehouse)
    late = connected.query("select distinct provider from ops.problem where topic = 'lateness' order by 1")
    assert late == [(name,) for name in providers.names()]
