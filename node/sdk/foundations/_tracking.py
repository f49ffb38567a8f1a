"""Metrics and tags: each call is one line (per value) in the job's track file, and costs some microseconds."""

from __future__ import annotations

import operator
from time import time

from . import _console, _track
from ._values import is_single, quote, scalar, single_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Mapping, Optional, Union

    Single = Union[str, int, float, bool]
    Metric = Union[Single, List[Single]]

_UNSET: object = object()
_STEP_MAX = 1 << 63
# The node's own series; it takes no point of these from a job.
_RESERVED = "system/"

# Tags that this process has put on its job.
_tags: dict[str, str] = {}


def log_metric(key: str, value: Metric, step: Optional[int] = None) -> None:
    """Adds a point to a series of the job.

    :param key: the series. Repeated calls append; tables show the last value, the history is kept.
    :param value: a number, a string or a bool, a scalar of numpy or torch, or a flat list of these, each of which
        becomes a point. NaN and infinity are kept.
    :param step: where the point lies on the series; None: the series counts by itself.
    :raises ValueError: the key is not a string or begins with ``system/``, which is the node's own, or the value does
        not fit one line of 64 KiB.
    :raises TypeError: any other value; nothing is written then. Arguments are checked outside of a job, too.
    :raises TrackError: the point could not be written down.

    Example::

        >>> import foundations
        >>> foundations.log_metric("accuracy", 0.93)
    """
    if type(key) is not str and not isinstance(key, str) or not key:
        raise ValueError("Invalid metric name `{}`".format(key))
    if key.startswith(_RESERVED):
        raise ValueError(
            "Invalid metric name `{}`: names that begin with {} are reserved for what the node reads of the "
            "job; use another name".format(key, _RESERVED)
        )
    place = "null" if step is None else _step_text(key, step)
    text = single_text(value)
    if text is None:
        lines = _list_lines(key, value, place)
    else:
        lines = ('["m",%s,%s,%s,%r]\n' % (quote(key), text, place, time())).encode("utf-8", "replace")
        if len(lines) > _track.LINE_MAX:
            _track.check_length(lines, "metric `{}`".format(key[:30]), "save long texts with save_artifact")
    track = _track._track or _track.current()
    if track is None:
        _console.not_a_job()
    elif lines:
        track.write(lines)


def log_metrics(metrics: Union[str, Mapping[str, Metric]], value: object = _UNSET, step: Optional[int] = None) -> None:
    """Logs several series at once, ``log_metrics({"loss": 0.1, "accuracy": 0.9}, step=3)``, or one as `log_metric`.

    :raises ValueError, TypeError, TrackError: as `log_metric`. Series before the wrong one are logged then.

    Example::

        >>> import foundations
        >>> foundations.log_metrics({"loss": 0.1, "accuracy": 0.9})
    """
    if value is not _UNSET:
        log_metric(metrics, value, step)  # type: ignore[arg-type]
        return
    if not hasattr(metrics, "items"):
        raise TypeError("log_metrics takes a dict of names and values, or a name and a value")
    for key, one in metrics.items():  # type: ignore[union-attr]
        log_metric(key, one, step)


def set_tag(key: str, value: object = "") -> None:
    """Puts a tag on the job; a tag of the same key is overwritten, with a warning.

    :param key: the tag.
    :param value: any value; its text is kept.
    :raises TrackError: the tag could not be written down.

    Example::

        >>> import foundations
        >>> foundations.set_tag("model", "resnet")
    """
    key, value = str(key), str(value)
    encoded = _track.line('"t"', quote(key), quote(value))
    _track.check_length(encoded, "tag `{}`".format(key[:30]), "shorten it")
    track = _track.current()
    if track is None:
        _console.not_a_job()
        return
    if key in _tags:
        _console.warning("Tag `{}` updated to `{}`".format(key, value))
    _tags[key] = value
    track.write(encoded)


def _list_lines(key: str, value: object, place: str) -> bytes:
    """A line per element; all are checked before any is made."""
    if not isinstance(value, list) or not all(is_single(element) for element in value):
        raise TypeError(
            'Invalid metric with key="{}" of value={} with type {}. Value should be of type string or number, '
            "or a list of strings / numbers".format(key, _shown(value), type(value))
        )
    now, name, lines = time(), quote(key), []
    for element in value:
        text = single_text(element)
        encoded = ('["m",%s,%s,%s,%r]\n' % (name, text, place, now)).encode("utf-8", "replace")
        _track.check_length(encoded, "an element of metric `{}`".format(key[:30]), "save long texts with save_artifact")
        lines.append(encoded)
    return b"".join(lines)


def _step_text(key: str, step: object) -> str:
    try:
        number = operator.index(scalar(step))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            "Invalid step {} of metric `{}`: a step is a whole number or None".format(_shown(step), key)
        ) from None
    if not -_STEP_MAX <= number < _STEP_MAX:
        raise ValueError("Invalid step {} of metric `{}`: it needs more than 64 bits".format(_shown(step), key))
    return repr(number)


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 30 else text[:30] + " ..."
