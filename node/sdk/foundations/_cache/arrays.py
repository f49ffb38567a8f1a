"""Arrays and tables by their bytes, without a copy where memory lies in order, and without importing any package.

The layout does not count: an array in Fortran order, a view with steps and a memory-mapped file have the digest of
the plain array with the same elements. Type and shape count.
"""

from __future__ import annotations

import sys

from . import tree
from .graph import Node
from .values import of_object, watch_again

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator

    from .walk import Walk


def of_numpy(array: Any, walk: Walk) -> Node:
    """A numpy array; of subclasses their state and class count, too."""
    numpy = sys.modules["numpy"]
    walk.packages.add("numpy")
    kind = type(array)
    if kind is not numpy.ndarray and kind is not numpy.memmap:
        if kind.__name__ == "MaskedArray" or not _is_view_like(kind):
            return of_object(array, walk)
        plain = array.view(numpy.ndarray)
        return Node(b"array subclass", [kind, plain, getattr(array, "__dict__", None)], names=["", "", ""])
    word = "{} {}".format(array.dtype.str if array.dtype.names is None else array.dtype.descr, array.shape)
    head = b"array " + word.encode()
    if array.dtype.names is not None:
        # Field by field: what lies between fields is not part of the value.
        return Node(
            head, [array[name] for name in array.dtype.names], names=["[{!r}]".format(n) for n in array.dtype.names]
        )
    if array.dtype.hasobject or array.dtype.kind == "T":
        if not walk.covered:
            _watch_whole(array, walk)
        return Node(head, array.ravel().tolist())
    watch_again(array, walk, of_numpy)
    return Node(head + numpy_digest(array))


def _is_view_like(kind: type) -> bool:
    return kind.__reduce__ is sys.modules["numpy"].ndarray.__reduce__


def _watch_whole(value: Any, walk: Walk) -> None:
    from .walk import Walk as Anew

    before = Anew().digest(value, "")
    walk.watches.check(lambda: Anew().digest(value, "") == before)


def numpy_digest(array: Any) -> bytes:
    """The digest of an array's elements as bytes in C order, in pieces where they do not lie so."""
    numpy = sys.modules["numpy"]
    if array.flags.c_contiguous:
        return tree.digest(_bytes_of(array))
    if array.ndim == 0 or array.nbytes <= tree.LEAF:
        return tree.digest(_bytes_of(numpy.ascontiguousarray(array)))
    return tree.digest_of_blocks(array.nbytes, _blocks(array))


def _bytes_of(array: Any) -> memoryview:
    if array.nbytes == 0:
        return memoryview(b"")
    # Times have no buffer of their own, and what has none dimension cannot be seen as bytes.
    flat = array.reshape(-1)
    return memoryview(flat.view(sys.modules["numpy"].uint8))


def _blocks(array: Any) -> Iterator[memoryview]:
    """Bytes in C order, cut at whole leaves, with no more than some rows copied at a time."""
    numpy = sys.modules["numpy"]
    row = max(1, array.nbytes // len(array))
    rows = max(1, 8 * tree.LEAF // row)
    rest = b""
    for start in range(0, len(array), rows):
        piece = numpy.ascontiguousarray(array[start : start + rows])
        data = rest + bytes(_bytes_of(piece)) if rest else _bytes_of(piece)
        view = memoryview(data)
        whole = view.nbytes - view.nbytes % tree.LEAF
        if whole:
            yield view[:whole]
        rest = bytes(view[whole:])
    if rest:
        yield memoryview(rest)


def of_numpy_scalar(value: Any, walk: Walk) -> Node:
    walk.packages.add("numpy")
    numpy = sys.modules["numpy"]
    array = numpy.asarray(value)
    if array.dtype.hasobject or array.dtype.names is not None:
        return of_object(value, walk)
    return Node(b"scalar " + array.dtype.str.encode() + numpy_digest(array))


def of_dtype(value: Any, walk: Walk) -> Node:
    walk.packages.add("numpy")
    return Node(b"dtype " + repr(value.descr if value.names else value.str).encode())


def of_frame(frame: Any, walk: Walk) -> Node:
    """A pandas DataFrame: column by column, however its blocks lie."""
    walk.packages.add("pandas")
    if not walk.covered:
        _watch_whole(frame, walk)
    columns = [_column(frame.iloc[:, at], walk) for at in range(frame.shape[1])]
    names = ["[{!r}]".format(name) for name in frame.columns[: len(columns)]]
    node = Node(
        b"frame",
        [type(frame), frame.columns, frame.index, frame.attrs, *columns],
        names=["", ".columns", ".index", ".attrs", *names],
    )
    node.covered = True
    return node


def of_series(series: Any, walk: Walk) -> Node:
    walk.packages.add("pandas")
    if not walk.covered:
        _watch_whole(series, walk)
    parts = [type(series), series.name, series.index, series.attrs, _column(series, walk)]
    node = Node(b"series", parts, names=["", ".name", ".index", ".attrs", ""])
    node.covered = True
    return node


def of_index(index: Any, walk: Walk) -> Node:
    walk.packages.add("pandas")
    kind = type(index).__name__
    if kind == "RangeIndex":
        return Node(b"range index", [index.start, index.stop, index.step, index.name])
    if kind == "MultiIndex":
        levels = [index.get_level_values(at) for at in range(index.nlevels)]
        return Node(b"multi index", [list(index.names), levels])
    frequency = getattr(index, "freqstr", None)
    return Node(b"index", [kind, index.name, frequency, _column(index, walk)])


def _column(series: Any, walk: Walk) -> Node:
    """Elements of a column with their type; plain numbers as an array, all else one by one."""
    numpy = sys.modules["numpy"]
    dtype = series.dtype
    if isinstance(dtype, numpy.dtype) and not dtype.hasobject:
        return Node(b"column", [str(dtype), series.to_numpy()], names=["", ""])
    if str(dtype) == "category":
        codes = series.cat.codes if hasattr(series, "cat") else series.codes
        categories = series.cat.categories if hasattr(series, "cat") else series.categories
        ordered = series.cat.ordered if hasattr(series, "cat") else series.ordered
        return Node(b"categories", [numpy.asarray(codes), categories, bool(ordered)], names=["", "", ""])
    return Node(b"column of objects", [str(dtype), [_element(one) for one in series.tolist()]], names=["", ""])


def _element(value: Any) -> Any:
    # pandas.NA and NaT say what they are by name, and are one object each.
    return Node(b"missing " + type(value).__name__.encode()) if type(value).__name__ in ("NAType", "NaTType") else value


def of_polars_frame(frame: Any, walk: Walk) -> Node:
    walk.packages.add("polars")
    columns = frame.get_columns()
    return Node(b"polars frame", columns, names=["[{!r}]".format(column.name) for column in columns])


def of_polars_series(series: Any, walk: Walk) -> Node:
    walk.packages.add("polars")
    numpy = sys.modules.get("numpy")
    dtype = series.dtype
    if numpy is not None and dtype.is_numeric() and not dtype.is_decimal() and series.null_count() == 0:
        return Node(b"polars column", [series.name, str(dtype), series.to_numpy()], names=["", "", ""])
    return Node(b"polars objects", [series.name, str(dtype), series.to_list()], names=["", "", ""])


def of_tensor(tensor: Any, walk: Walk) -> Node:
    """A torch tensor: type, shape, kind of device and elements; whether gradients are wanted counts, too."""
    torch = sys.modules["torch"]
    walk.packages.add("torch")
    word = "{} {} {} {} {}".format(
        tensor.dtype, tuple(tensor.shape), tensor.device.type, tensor.requires_grad, tensor.layout
    )
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return of_object(tensor, walk)
    watch_again(tensor, walk, of_tensor)
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    if plain.is_conj() or plain.is_neg():
        plain = plain.resolve_conj().resolve_neg()
    data = plain.view(torch.uint8).numpy() if plain.numel() else None
    content = tree.digest(memoryview(b"") if data is None else memoryview(data))
    return Node(b"tensor " + word.encode() + content, [type(tensor)], names=[""])


NAMED: Dict[Any, Any] = {
    ("numpy", "ndarray"): of_numpy,
    ("numpy", "generic"): of_numpy_scalar,
    ("numpy", "dtype"): of_dtype,
    ("pandas", "DataFrame"): of_frame,
    ("pandas", "Series"): of_series,
    ("pandas", "Index"): of_index,
    ("polars", "DataFrame"): of_polars_frame,
    ("polars", "Series"): of_polars_series,
    ("torch", "Tensor"): of_tensor,
}
