"""From a record to the bytes that PostgreSQL stores, exactly, and to the digest that tells whether a slice changed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from hashlib import sha256
from math import isfinite
from struct import Struct
from typing import Any

import msgspec

from ai_usage.core.errors import ResponseInvalid

_encode = msgspec.json.Encoder(decimal_format="number", order="deterministic").encode

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_DIGEST_MODULUS = 1 << 256

# PostgreSQL's binary COPY: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = b"\xff\xff"
_FIELDS_BEFORE_JSON = Struct(">hiqii").pack
_JSONB_HEADER = Struct(">iB").pack
_JSONB_VERSION = 1
_POSTGRES_EPOCH = date(2000, 1, 1).toordinal()


def encode_record(record: Mapping[str, Any]) -> bytes:
    """
    Return the record as canonical JSON: keys sorted, integers and decimals digit by digit.

    Text that PostgreSQL cannot hold (NUL, lone surrogates) becomes U+FFFD. Raises :class:`ResponseInvalid` for a number
    that JSON does not know (NaN, infinity).
    """
    try:
        encoded = _encode(record)
    except UnicodeEncodeError:
        return _encode(_mended(record))
    # The encoder writes a float NaN as null, a decimal one as NaN, infinity alike, and NUL as an escape. Harmless records
    # can contain the same letters; for them the second look only costs time. A single byte is found several times faster
    # than a word, and most records do not even contain the first byte of the rare words.
    if (
        b"null" in encoded
        or (b"\\" in encoded and b"\\u0000" in encoded)
        or (b"N" in encoded and b"NaN" in encoded)
        or (b"I" in encoded and b"Infinity" in encoded)
    ):
        return _encode(_mended(record))
    return encoded


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", _REPLACEMENT).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_mended(key): _mended(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mended(item) for item in value]
    if isinstance(value, float | Decimal) and not (
        value.is_finite() if isinstance(value, Decimal) else isfinite(value)
    ):
        raise ResponseInvalid(
            "The provider sent a number that is not finite.",
            action="Nothing was stored. Report it with the extraction's time; the next run tries again.",
        )
    return value


class SliceDigest:
    """
    The digest of a slice: equal for the same records in any order.

    Providers do not promise an order, and pages can shift. Adding the hashes of the records, instead of hashing their
    sequence, keeps a slice that only arrived shuffled from counting as changed; repeated records still count.
    """

    __slots__ = ("_sum", "count")

    def __init__(self) -> None:
        self._sum = 0
        self.count = 0

    def add(self, encoded: bytes) -> None:
        """Add one encoded record."""
        self._sum += int.from_bytes(sha256(encoded).digest(), "little")
        self.count += 1

    def hexdigest(self) -> str:
        """Return the digest; the empty slice has one too."""
        total = (self._sum % _DIGEST_MODULUS).to_bytes(32, "little") + self.count.to_bytes(8, "little")
        return sha256(total).hexdigest()


def copy_prefix(load_id: int, usage_date: date) -> bytes:
    """Return the start of a binary COPY row (load_id, usage_date, record): the same for all records of a slice."""
    return _FIELDS_BEFORE_JSON(3, 8, load_id, 4, usage_date.toordinal() - _POSTGRES_EPOCH)


def jsonb_header(length: int) -> bytes:
    """Return what precedes a JSON text of ``length`` bytes in a binary COPY row."""
    return _JSONB_HEADER(length + 1, _JSONB_VERSION)
