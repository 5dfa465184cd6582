"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest

from ai_usage import providers
from ai_usage.core.http import Limits

QUICK = Limits(connect_timeout=2, read_timeout=2, answer_timeout=4, patience=4, attempts=2)
"""As the providers' own, but for the waiting."""


@pytest.fixture(autouse=True)
def forgetful_masker() -> Iterator[None]:
    """
    Let Airflow's masker of secrets forget what it has seen.

    It learns the whole extra of every connection; hundreds of made-up connections would make it slower and slower.
    """
    forget()
    yield
    forget()


def forget() -> None:
    """Let the masker forget at once."""
    from airflow.sdk._shared.secrets_masker.secrets_masker import _secrets_masker

    _secrets_masker().reset_masker()


@pytest.fixture
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every client give up soon; what it asks and how it fails stays as it is."""
    for module in ("core.http.client", "providers._cloudwatch", "providers._authress_landing"):
        monkeypatch.setattr(f"ai_usage.{module}.full_jitter", lambda *_, **__: 0.0)
    for provider in providers.load_all():
        if hasattr(provider, "limits"):
            monkeypatch.setattr(type(provider), "limits", QUICK)
    for module in ("providers._azure", "providers.authress"):
        monkeypatch.setattr(f"ai_usage.{module}.Limits", lambda: QUICK)
    google = import_module("ai_usage.providers._google_vertex_ai")
    bounds = google.Bounds(answer=3, patience=0.3, pause=0.05, deadline=4)
    monkeypatch.setattr(google, "Bounds", lambda: bounds)
