"""
Local servers that speak the providers' usage APIs from a seeded ground truth.

Nothing here is needed in production, and nothing here imports the product: the truth is worked out independently, so
that a mart that equals it is right for a reason.

>>> with Sandbox(seed=7, today=date(2026, 8, 15)) as sandbox:
...     sandbox.connections(), sandbox.truth, sandbox.faults, sandbox.requests
"""

from __future__ import annotations

from sandbox.errors import SandboxError
from sandbox.service import Sandbox

__all__ = ["Sandbox", "SandboxError"]
