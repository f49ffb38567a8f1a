"""A value as bytes: a JSON head, a pickle, and the value's large buffers beside it: arrays are mapped, not read.

``FNV1``, the head's length (u32, little endian), the head, the pickle, then each buffer at a multiple of 64 bytes.
Offsets count from the start of the container.
"""

from __future__ import annotations

import json
import pickle
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Dict, List, Optional, Sequence, Tuple

MAGIC = b"FNV1"
KIND = "pickle5"
# What vector instructions want, and a cache line.
_ALIGN = 64
_PREFIX = struct.Struct("<4sI")
# A head has a line per function, argument and package; more is damage.
_HEAD_MAX = 16 << 20


class Damaged(Exception):
    """These bytes are no container, or not a whole one."""


class Unkept(Exception):
    """A value that cannot be written down; the text says why."""


class Container:
    """A value written down, in pieces that can be sent to a file one after the other."""

    def __init__(self, pieces: List[Any]) -> None:
        self._pieces = pieces
        self.bytes = sum(len(piece) if isinstance(piece, bytes) else piece.nbytes for piece in pieces)

    def write_to(self, file: BinaryIO) -> None:
        """Writes all pieces."""
        for piece in self._pieces:
            file.write(piece)

    def joined(self) -> bytes:
        """All pieces as one."""
        return b"".join(self._pieces)


def pack(
    value: Any,
    parts: Sequence[Sequence[str]],
    raised: bool = False,
    bytes_max: Optional[int] = None,
    track: Sequence[Any] = (),
) -> Container:
    """Writes a value down. Its buffers are not copied: it must not change until the container was written.

    :param parts: what the key was made of.
    :param raised: whether the value is an exception that was raised.
    :param track: lines of the track file that belong to the value.
    :raises Unkept: it is a generator or the like, cannot be pickled, or takes more than `bytes_max`.
    """
    _check_kind(value)
    buffers: List[memoryview] = []

    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < _ALIGN:
            # In the pickle: a place of its own would take more.
            return True
        buffers.append(view)
        return False

    data, buffers = _pickled(value, out_of_band, buffers)
    total = len(data) + sum(view.nbytes for view in buffers)
    if bytes_max is not None and total > bytes_max:
        raise Unkept("it takes {} bytes, more than the {} that are kept".format(total, bytes_max))
    more: Dict[str, Any] = {"raised": True} if raised else {}
    if track:
        more["track"] = list(track)
    return Container(_laid_out(data, buffers, parts, more))


def _pickled(value: Any, out_of_band: Any, buffers: List[memoryview]) -> Tuple[bytes, List[memoryview]]:
    try:
        return pickle.dumps(value, protocol=5, buffer_callback=out_of_band), buffers
    except Exception as error:
        reason = "{}: {}".format(type(error).__name__, error)
    buffers.clear()
    try:
        # Closures and what is defined in functions.
        import cloudpickle

        return cloudpickle.dumps(value, protocol=5, buffer_callback=out_of_band), buffers
    except ImportError:
        raise Unkept("it cannot be pickled ({}); cloudpickle, which might, is not installed".format(reason)) from None
    except Exception:
        raise Unkept("it cannot be pickled ({})".format(reason)) from None


def _check_kind(value: Any) -> None:
    kind = type(value)
    if kind.__name__ in ("generator", "coroutine", "async_generator"):
        raise Unkept("it is a {}, which can be used once only; return a list".format(kind.__name__.replace("_", " ")))
    if hasattr(kind, "__next__"):
        raise Unkept("it is an iterator ({}), which can be used once only; return a list".format(kind.__qualname__))


def _laid_out(data: bytes, buffers: List[memoryview], parts: Any, more: Dict[str, Any]) -> List[Any]:
    head: Dict[str, Any] = {"kind": KIND, "parts": [list(part) for part in parts], "pickle": [0, len(data)]}
    head.update(more)
    # The offsets are part of the head whose length they depend on: there is room for the longest ones.
    head["buffers"] = [[1 << 62, view.nbytes] for view in buffers]
    start = _up(_PREFIX.size + len(_json(head)) + 20)
    head["pickle"][0] = start
    at = start + len(data)
    places = []
    for view in buffers:
        at = _up(at)
        places.append([at, view.nbytes])
        at += view.nbytes
    head["buffers"] = places
    text = _json(head).ljust(start - _PREFIX.size)
    pieces: List[Any] = [_PREFIX.pack(MAGIC, len(text)) + text, data]
    at = start + len(data)
    for (offset, length), view in zip(places, buffers):
        pieces.append(b"\0" * (offset - at))
        pieces.append(view)
        at = offset + length
    return pieces


def _json(head: Dict[str, Any]) -> bytes:
    return json.dumps(head, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _up(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN


def head_of(data: memoryview) -> Dict[str, Any]:
    """The head of a container.

    :raises Damaged: there is none.
    """
    if data.nbytes < _PREFIX.size:
        raise Damaged("it is too short")
    magic, length = _PREFIX.unpack(data[: _PREFIX.size])
    if magic != MAGIC or length > _HEAD_MAX or _PREFIX.size + length > data.nbytes:
        raise Damaged("it does not begin as a value does")
    try:
        head = json.loads(bytes(data[_PREFIX.size : _PREFIX.size + length]))
    except ValueError:
        raise Damaged("its head is not JSON") from None
    if not isinstance(head, dict) or head.get("kind") != KIND:
        raise Damaged("it is of another kind")
    return head


def unpack(data: memoryview) -> Tuple[Any, Dict[str, Any]]:
    """The value, and the head (``raised``, ``track``). Arrays share the memory of `data`: it should be writable.

    :raises Damaged: the bytes are not a whole container.
    :raises Exception: whatever unpickling raises: a class that is gone, another version of a package.
    """
    head = head_of(data)
    try:
        body = _piece(data, head["pickle"])
        buffers = [_piece(data, place) for place in head["buffers"]]
    except (KeyError, TypeError, ValueError):
        raise Damaged("its head lacks a word") from None
    return pickle.loads(body, buffers=buffers), head


def _piece(data: memoryview, place: Sequence[int]) -> memoryview:
    offset, length = place
    if not 0 <= offset <= offset + length <= data.nbytes:
        raise Damaged("it is cut off")
    return data[offset : offset + length]
