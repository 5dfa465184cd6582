"""Secrets that are none, and the search for them in everything that was written."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_plus

from tests.support.warehouse import TestWarehouse


def forms(secret: str) -> set[str]:
    """Return the forms in which a secret can turn up: as it is, quoted, escaped, in base64 at any offset, in hexadecimal."""
    raw = secret.encode()
    found = {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(json.dumps(secret)[1:-1])[1:-1],
        repr(secret)[1:-1],
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        raw.hex(),
    }
    found |= {re.sub(r"%[0-9A-F]{2}", lambda match: match.group().lower(), form) for form in found}
    for offset in range(3):
        # The characters at the ends depend on the neighbours; what lies between them does not.
        encoded = base64.b64encode(b"\0" * offset + raw)
        begin, end = -(-offset * 8 // 6), (offset + len(raw)) * 8 // 6
        found |= {encoded[begin:end].decode(), base64.urlsafe_b64encode(b"\0" * offset + raw)[begin:end].decode()}
    if "\n" in secret:
        found |= {line for line in secret.splitlines() if len(line) >= 40}
    return found


def hits(haystack: Mapping[str, str], secrets: Iterable[str]) -> list[str]:
    """Return where any form of any secret stands, with what is around it."""
    needles = sorted({form for secret in secrets for form in forms(secret)})
    return [
        f"{place}: …{text[max(0, text.find(needle) - 120) : text.find(needle) + len(needle) + 40]}…"
        for place, text in haystack.items()
        for needle in needles
        if needle in text
    ]


def tables(warehouse: TestWarehouse) -> dict[str, str]:
    """Return every value of every table of the warehouse, whatever its schema, as text."""
    named = warehouse.query(
        """
        select format('%%I.%%I', nspname, relname), string_agg(format('%%I::text', attname), ', ' order by attnum)
        from pg_class
        inner join pg_namespace on pg_namespace.oid = relnamespace
        inner join pg_attribute on attrelid = pg_class.oid and attnum > 0 and not attisdropped
        where relkind in ('r', 'p', 'm') and nspname !~ '^(pg_|information_schema)'
        group by 1 order by 1
        """
    )
    # Column by column: the text of a whole row would escape what is in it.
    return {table: everything(warehouse.query(f"select {columns} from {table}")) for table, columns in named}


def definitions(warehouse: TestWarehouse) -> dict[str, str]:
    """Return what the database keeps beside rows: views, functions, comments."""
    return {
        "views": everything(warehouse.query("select definition from pg_views where schemaname !~ '^pg_'")),
        "functions": everything(warehouse.query("select prosrc from pg_proc")),
        "comments": everything(warehouse.query("select description from pg_description")),
    }


def everything(rows: Iterable[tuple[object, ...]]) -> str:
    """Return rows as one text; one value each, since a list would show its texts escaped."""
    return "\n".join(str(value) for row in rows for value in row)


def files(folder: Path) -> dict[str, str]:
    """Return every file below a folder, databases and archives included, byte by byte."""
    return {str(path): path.read_bytes().decode("latin-1") for path in _files(folder)}


def metadata(database: Path) -> dict[str, str]:
    """
    Return every value of every table of a SQLite database, as Airflow keeps its own in.

    Read as rows, since SQLite scatters what is long over pages; as bytes too, since deleted rows remain in the file.
    """
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as session:
        session.text_factory = lambda raw: raw.decode("latin-1")
        names = [name for (name,) in session.execute("select name from sqlite_master where type = 'table'")]
        found = {f"metadata.{name}": _values(session.execute(f'select * from "{name}"')) for name in names}
    return found | {"metadata, as bytes": database.read_bytes().decode("latin-1")}


def _values(rows: Iterable[tuple[object, ...]]) -> str:
    return everything(
        tuple(value.decode("latin-1") if isinstance(value, bytes) else value for value in row) for row in rows
    )


class Processes:
    """Remembers the arguments of every process of this machine that runs meanwhile."""

    def __init__(self) -> None:
        self.arguments: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Processes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.2):
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.arguments.add(process.read_bytes().replace(b"\0", b" ").decode("latin-1"))
                except OSError:
                    continue  # it has ended


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            yield path


def told(error: BaseException) -> str:
    """Return everything that a log could show of an exception: its chain, its attributes, its arguments."""
    shown = ["".join(traceback.format_exception(error)), repr(error), str(error)]
    return "\n".join([*shown, *(f"{name}={value}" for name, value in vars(error).items())])
