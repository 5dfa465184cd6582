"""The one error the sandbox shows to the person at the keyboard."""

from __future__ import annotations


class SandboxError(Exception):
    """What was asked cannot be done. The text says what happened and what to do."""
