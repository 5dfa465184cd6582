"""
The HTTP client of the key-based providers.

It asks for JSON and hands back JSON, or raises an error of :mod:`ai_usage.core.errors`; nothing in between. What a
provider has to know about is in :class:`HttpClient` and :class:`Limits`.
"""

from __future__ import annotations

from ai_usage.core.http.address import Address, as_segment, checked_base_url, is_loopback
from ai_usage.core.http.causes import is_caused_by
from ai_usage.core.http.client import Explain, HttpClient, Refusal
from ai_usage.core.http.deadline import DeadlineExceededError, call_within
from ai_usage.core.http.limits import Budget, Limits, full_jitter

__all__ = [
    "Address",
    "Budget",
    "DeadlineExceededError",
    "Explain",
    "HttpClient",
    "Limits",
    "Refusal",
    "as_segment",
    "call_within",
    "checked_base_url",
    "full_jitter",
    "is_caused_by",
    "is_loopback",
]
