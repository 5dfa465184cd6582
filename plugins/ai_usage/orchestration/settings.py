"""What stands in an Airflow connection, and what is made of it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ai_usage.core.contract import Journal
from ai_usage.core.errors import ConfigurationInvalid

_SECRET_NAME = re.compile(
    r"secret|password|passwd|passphrase|token$|_token|api_?key|access_key|private_key|credential|authorization|keyfile",
    re.IGNORECASE,
)

_TALKATIVE = ("boto3", "botocore", "s3transfer", "google.auth", "google.cloud")
"""Loggers that write whole requests and answers, session tokens included, once they are let."""


class Opened(NamedTuple):
    """
    What a kind of client is made of.

    :param options: settings that may be read by anyone who may read logs.
    :param client: what the provider calls.
    :param journal: where the client counts its calls, if it does; otherwise the provider counts them.
    """

    options: Mapping[str, Any]
    client: Any
    journal: Journal | None = None


def extra_of(found: Any) -> dict[str, Any]:
    """
    Return the connection's extra.

    :raises ConfigurationInvalid: if it is not a JSON object. Airflow itself would take it for an empty one.
    """
    try:
        extra = json.loads(found.extra) if found.extra else {}
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise ConfigurationInvalid(
            "Its extra is not a JSON object.",
            action='Correct it, for example {"region_name": "us-east-1"}.',
            connection_id=found.conn_id,
        )
    return extra


def without_secrets(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings whose names do not say that they are secret."""
    return {name: value for name, value in extra.items() if not _SECRET_NAME.search(name)}


def secrets_of(extra: Mapping[str, Any]) -> list[str]:
    """Return the texts in the extra whose names, or the names of what they stand in, say that they are secret."""
    return [text for name, value in extra.items() if _SECRET_NAME.search(name) for text in _texts(value)]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def quieten_libraries() -> None:
    """Keep the libraries of cloud vendors from writing credentials to the log, whatever level Airflow logs at."""
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        if logger.getEffectiveLevel() < logging.INFO:
            logger.setLevel(logging.INFO)
