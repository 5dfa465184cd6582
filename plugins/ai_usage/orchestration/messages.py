"""
What is told to people, and its forms: plain text, HTML, Slack, Teams, JSON.

Much of a message comes from elsewhere: a region's name, a provider's own words. Whatever it is, it is made into one plain
line first, and each form then shows it as text and nothing else: no markup, no link, no mention of people.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

Tone = Literal["bad", "warning", "good", "info"]

LONGEST_LINE = 500
LONGEST_TITLE = 140
MOST_LINES = 20
"""Of one section; what is more is counted."""
_LONGEST_BLOCK = 2900
"""Slack takes 3,000 characters of one text."""
_COLOURS: dict[Tone, str] = {"bad": "Attention", "warning": "Warning", "good": "Good", "info": "Default"}

_TERMINAL_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_LINKS = (
    (re.compile(r"://"), "[:]//"),
    (re.compile(r"\bwww\.", re.IGNORECASE), "www[.]"),
    (re.compile(r"\b(mailto|javascript|data|tel):", re.IGNORECASE), r"\1[:]"),
)
_TEXT_OF_SLACK = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def clean(text: object, limit: int = LONGEST_LINE) -> str:
    """
    Return a text as one line that can be shown anywhere.

    Control characters, terminal codes and characters that change the direction of what follows are gone, and addresses are
    written so that no program makes a link of them. What is longer than ``limit`` characters ends with ``…``.
    """
    line = _TERMINAL_CODES.sub("", str(text)[: limit * 8])
    line = "".join(_shown(character) for character in line)
    line = " ".join(line.split())
    for pattern, harmless in _LINKS:
        line = pattern.sub(harmless, line)
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if category in {"Cc", "Zl", "Zp"}:
        return " "
    return "" if category in {"Cf", "Cs", "Co", "Cn"} else character


@dataclass(frozen=True)
class Section:
    """A heading, and the lines below it."""

    heading: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Message:
    """
    One message. All its texts are plain lines; :meth:`of` makes them so.

    :param title: one line that says it all.
    :param facts: names and values: where, since when, what to do.
    :param sections: lists below the facts.
    """

    title: str
    tone: Tone
    facts: tuple[tuple[str, str], ...] = ()
    sections: tuple[Section, ...] = ()

    @classmethod
    def of(
        cls,
        title: object,
        tone: Tone,
        facts: Iterable[tuple[str, object]] = (),
        sections: Iterable[tuple[str, Sequence[object]]] = (),
    ) -> Message:
        """Return a message of texts that may come from anywhere; empty facts and sections are left out."""
        return cls(
            title=clean(title, LONGEST_TITLE),
            tone=tone,
            facts=tuple((clean(name), clean(value)) for name, value in facts if value),
            sections=tuple(Section(clean(heading), _bounded(lines)) for heading, lines in sections if lines),
        )

    # ---------------------------------------------------------------- forms

    def as_text(self) -> str:
        """Return it as plain text."""
        parts = [self.title]
        if self.facts:
            parts.append("\n".join(f"{name}: {value}" for name, value in self.facts))
        parts += ["\n".join([f"{one.heading}:", *(f"- {line}" for line in one.lines)]) for one in self.sections]
        return "\n\n".join(parts) + "\n"

    def as_html(self) -> str:
        """Return it as the body of a mail."""
        facts = "".join(
            f'<tr><td valign="top"><b>{escape(name)}</b></td><td>{escape(value)}</td></tr>'
            for name, value in self.facts
        )
        sections = "".join(
            f"<p><b>{escape(one.heading)}</b></p><ul>{''.join(f'<li>{escape(line)}</li>' for line in one.lines)}</ul>"
            for one in self.sections
        )
        table = f'<table cellpadding="4">{facts}</table>' if facts else ""
        return f"<html><body><h3>{escape(self.title)}</h3>{table}{sections}</body></html>"

    def as_slack(self) -> dict[str, Any]:
        """Return it for an incoming webhook of Slack: texts that Slack does not take for markup."""
        blocks = [{"type": "header", "text": _plain_text(self.title, LONGEST_TITLE)}]
        blocks += [{"type": "section", "text": _plain_text(text, _LONGEST_BLOCK)} for text in self._paragraphs()]
        return {
            # What a phone's notification shows. Here alone Slack looks for markup, and these three make it.
            "text": self.title.translate(_TEXT_OF_SLACK),
            "unfurl_links": False,
            "unfurl_media": False,
            "blocks": blocks,
        }

    def as_teams(self) -> dict[str, Any]:
        """Return it for a workflow of Teams: an adaptive card of text runs, in which Teams looks for no Markdown."""
        title = _run(self.title, weight="Bolder", size="Medium", color=_COLOURS[self.tone])
        body = [_runs([title])]
        body += [_runs([_run(f"{name}: ", weight="Bolder"), _run(value)]) for name, value in self.facts]
        for section in self.sections:
            body.append(_runs([_run(section.heading, weight="Bolder")]))
            body += [_runs([_run(f"• {line}")]) for line in section.lines]
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "msteams": {"width": "Full"},
            "body": body,
        }
        attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
        return {"type": "message", "attachments": [attachment]}

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "source": "ai_usage",
            "title": self.title,
            "tone": self.tone,
            "text": self.as_text(),
            "facts": [{"name": name, "value": value} for name, value in self.facts],
            "sections": [{"heading": one.heading, "lines": list(one.lines)} for one in self.sections],
        }

    def _paragraphs(self) -> Iterator[str]:
        if self.facts:
            yield "\n".join(f"{name}: {value}" for name, value in self.facts)
        for section in self.sections:
            yield "\n".join([section.heading, *(f"• {line}" for line in section.lines)])


def _bounded(lines: Sequence[object]) -> tuple[str, ...]:
    shown = [clean(line) for line in lines[:MOST_LINES]]
    more = len(lines) - len(shown)
    return (*shown, f"and {more} more") if more else tuple(shown)


def _plain_text(text: str, limit: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": text if len(text) <= limit else text[: limit - 1] + "…", "emoji": False}


def _runs(inlines: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "RichTextBlock", "inlines": inlines}


def _run(text: str, **style: str) -> dict[str, Any]:
    return {"type": "TextRun", "text": text, **style}
