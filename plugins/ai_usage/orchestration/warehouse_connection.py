"""The warehouse as Airflow knows it: one connection, ``ai_usage_warehouse``."""

from __future__ import annotations

from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.warehouse.session import Warehouse

WAREHOUSE_CONNECTION_ID = "ai_usage_warehouse"


def open_warehouse() -> Warehouse:
    """Return the warehouse behind the Airflow connection; raises :class:`ConfigurationInvalid` when it is not usable."""
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = BaseHook.get_connection(WAREHOUSE_CONNECTION_ID)
    except AirflowNotFoundException:
        raise ConfigurationInvalid(
            "There is no such Airflow connection.",
            action="Add a connection of type postgres with this id; docs/connections.md shows its fields.",
            connection_id=WAREHOUSE_CONNECTION_ID,
        ) from None
    if not (connection.host and connection.login and connection.password and connection.schema):
        raise ConfigurationInvalid(
            "The connection lacks a host, a database, a login or a password.",
            action="Fill in all four; docs/connections.md shows an example.",
            connection_id=WAREHOUSE_CONNECTION_ID,
        )
    return Warehouse(
        host=connection.host,
        port=connection.port or 5432,
        dbname=connection.schema,
        user=connection.login,
        password=connection.password,
        sslmode=str(connection.extra_dejson.get("sslmode", "prefer")),
    )
