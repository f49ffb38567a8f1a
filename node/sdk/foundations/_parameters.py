"""Parameters of the job: read from its parameters file, written to its track file."""

from __future__ import annotations

from . import _console, _track
from ._errors import ParametersError
from ._values import json_text, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Union

    JsonValue = Union[None, bool, int, float, str, List[Any], Dict[str, Any]]

# Beside the code, in every job's directory.
PARAMETERS_FILE = "foundations_job_parameters.json"


def log_param(key: str, value: JsonValue) -> None:
    """Keeps a parameter with the job; a later one of the same key overwrites it.

    :param key: its name; anything else than a string becomes one.
    :param value: any JSON value, lists and dicts included; scalars and arrays of numpy are taken as numbers and lists.
    :raises TypeError: JSON cannot hold the value.
    :raises ValueError: it does not fit one line of 64 KiB.
    :raises TrackError: it could not be written down.

    Example::

        >>> import foundations
        >>> foundations.log_param("learning_rate", 0.001)
    """
    lines = _line(key, value)
    track = _track.current()
    if track is None:
        _console.not_a_job()
    else:
        track.write(lines)


def log_params(parameters: Mapping[str, JsonValue]) -> None:
    """Flattens a dict of parameters (`flatten_parameter_dictionary`) and keeps each.

    :raises TypeError: not a dict, or JSON cannot hold a value; nothing is written then.
    :raises ValueError, TrackError: as `log_param`.

    Example::

        >>> import foundations
        >>> foundations.log_params({"optimizer": {"name": "adam", "betas": [0.9, 0.99]}})
    """
    if not hasattr(parameters, "items"):
        raise TypeError("log_params takes a dict, not {}".format(type(parameters).__name__))
    flat = flatten_parameter_dictionary(parameters)
    lines = b"".join([_line(key, value) for key, value in flat.items()])
    track = _track.current()
    if track is None:
        _console.not_a_job()
    elif lines:
        track.write(lines)


def load_parameters(log_parameters: bool = True) -> Dict[str, Any]:
    """The parameters of this job: what `foundations_job_parameters.json` in the working directory holds.

    :param log_parameters: also keep them with the job, flattened.
    :returns: the file's object; ``{}`` when there is no file or an empty one.
    :raises ParametersError: the file does not hold a JSON object; the text says where.

    Example::

        >>> import foundations
        >>> foundations.load_parameters().get("batch_size", 32)
        32
    """
    parameters = _read()
    if log_parameters and parameters:
        track = _track.current()
        if track is None:
            _console.not_a_job()
            return parameters
        whole = _track.line('"P"', json_text(parameters, PARAMETERS_FILE))
        # What is too long for one line is kept by its parts alone.
        lines = [whole] if len(whole) <= _track.LINE_MAX else []
        for key, value in flatten_parameter_dictionary(parameters).items():
            try:
                lines.append(_line(key, value))
            except ValueError as error:
                # The job asked for its parameters; that one of them is too long to be shown does not end it.
                _console.warning("{}; it is not shown with the job".format(error))
        track.write(b"".join(lines))
    return parameters


def flatten_parameter_dictionary(parameters: Mapping[str, Any]) -> Dict[str, Any]:
    """One level: a nested dict becomes ``key_sub``, a list ``key_0``, ``key_1``, …; an empty one None.

    Example::

        >>> import foundations
        >>> foundations.flatten_parameter_dictionary({"a": {"b": [1, 2]}, "c": []})
        {'a_b_0': 1, 'a_b_1': 2, 'c': None}
    """
    flat: Dict[str, Any] = {}
    # A stack and not recursion: what holds itself would otherwise end in a RecursionError far from its cause.
    waiting = [(str(key), value, 1) for key, value in reversed(list(parameters.items()))]
    while waiting:
        key, value, depth = waiting.pop()
        if depth > 64:
            raise ValueError("parameter `{}` is nested deeper than 64 levels, or holds itself".format(key[:30]))
        if isinstance(value, dict):
            parts = [(key + "_" + str(sub), held, depth + 1) for sub, held in value.items()]
        elif isinstance(value, (list, tuple)):
            parts = [(key + "_" + str(at), held, depth + 1) for at, held in enumerate(value)]
        else:
            flat[key] = value
            continue
        if not parts:
            flat[key] = None
        waiting.extend(reversed(parts))
    return flat


def _line(key: object, value: object) -> bytes:
    what = "parameter `{}`".format(str(key)[:30])
    encoded = _track.line('"p"', quote(str(key)), json_text(value, what))
    _track.check_length(encoded, what, "save large values with save_artifact")
    return encoded


def _read() -> Dict[str, Any]:
    import json

    try:
        with open(PARAMETERS_FILE, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise ParametersError(PARAMETERS_FILE + " is not UTF-8 text; write it as JSON in UTF-8") from None
    if not text.strip():
        return {}
    try:
        parameters = json.loads(text)
    except ValueError as error:
        raise ParametersError("{} is not JSON: {}; correct it".format(PARAMETERS_FILE, error)) from None
    if not isinstance(parameters, dict):
        raise ParametersError(
            '{} holds a {}; write an object, as {{"batch_size": 32}}'.format(PARAMETERS_FILE, type(parameters).__name__)
        )
    return parameters
