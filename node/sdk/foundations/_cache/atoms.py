"""Values without parts, as bytes: equal exactly when type and value are equal, on any machine and in any process.

``1``, ``1.0`` and ``True`` differ, as do ``0.0`` and ``-0.0``; all NaN of Python floats are one.
"""

from __future__ import annotations

from hashlib import sha256
from struct import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

# Longer texts and bytes are carried by their digest.
_INLINE_MAX = 1 << 12


def sized(tag: bytes, data: bytes) -> bytes:
    """`data` under a tag of one byte, so that no two sequences of pieces give the same bytes."""
    if len(data) > _INLINE_MAX:
        data = sha256(data).digest()
        tag = tag.upper() + b"#"
    return b"%b%x:%b" % (tag, len(data), data)


def _int(value: int) -> bytes:
    return sized(b"i", b"%x" % value)


def _float(value: float) -> bytes:
    return b"f" + (pack(">d", value) if value == value else b"nan-----")


def _complex(value: complex) -> bytes:
    return b"c" + _float(value.real) + _float(value.imag)


def _str(value: str) -> bytes:
    return sized(b"s", value.encode("utf-8", "surrogatepass"))


def _bytes(value: bytes) -> bytes:
    return sized(b"b", value)


_ENCODERS: Dict[type, Callable[[Any], bytes]] = {
    int: _int,
    float: _float,
    complex: _complex,
    str: _str,
    bytes: _bytes,
    bool: lambda value: b"T" if value else b"F",
    type(None): lambda value: b"N",
    type(Ellipsis): lambda value: b"E",
    type(NotImplemented): lambda value: b"M",
}


def encode(value: object) -> Optional[bytes]:
    """The bytes of a value without parts; None: it has parts, or is of another type."""
    encoder = _ENCODERS.get(type(value))
    return None if encoder is None else encoder(value)
