"""Where an extraction reads."""

from __future__ import annotations

from dataclasses import dataclass

from ai_usage.core.texts import plain


@dataclass(frozen=True)
class Place:
    """Where an extraction reads: one stream of one scope of one connection; the connection as a whole without them."""

    provider: str
    connection_id: str
    stream: str | None
    scope: str | None

    @property
    def label(self) -> str:
        """The place as a person would say it."""
        return plain(" · ".join(part for part in (self.connection_id, self.scope, self.stream) if part))
