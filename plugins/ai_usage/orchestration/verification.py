"""Verifying a connection: everything it needs is asked of the provider, and the answers are kept."""

from __future__ import annotations

import logging

from ai_usage.core.contract import Check, Memory, Provider
from ai_usage.orchestration.clients import open_connection
from ai_usage.warehouse import events, ledger
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from ai_usage.warehouse.session import Warehouse

log = logging.getLogger(__name__)


def verify(provider: Provider, warehouse: Warehouse, connection_id: str) -> list[Check]:
    """Ask the provider everything a connection needs, keep the answers, and return them."""
    checks = list(provider.check(open_connection(provider, connection_id, Memory())))
    for check in checks:
        log.log(
            logging.INFO if check.passed else logging.WARNING, "%s: %s: %s", connection_id, check.name, check.message
        )
    with warehouse.session(LOADER) as session:
        ledger.keep_checks(session, provider, connection_id, checks)
        if checks and all(check.passed for check in checks):
            place = Place(provider.name, connection_id, None, None)
            events.record_event(session, place, "connected", "info", "The connection was verified.", None, None)
    return checks


def verify_unless_good(provider: Provider, warehouse: Warehouse, connection_id: str) -> None:
    """Verify a new connection, and one whose last verification found a fault, so that the answers on record are true."""
    with warehouse.session(LOADER) as session:
        if ledger.is_verified(session, connection_id):
            return
    verify(provider, warehouse, connection_id)
