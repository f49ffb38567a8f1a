"""`job.config.yaml`, which lies in a job's directory: read, checked key by key, and nothing guessed."""

from __future__ import annotations

import os

from . import _config, _console
from ._errors import ConfigurationError
from ._yaml import Mapping, read_mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Tuple

FILE = "job.config.yaml"

_TEXT = (str,)
_NUMBER = (int, float)
# Key: what it may be, in words. Null is as if the key were not there.
_KEYS: Dict[str, Tuple[tuple, str]] = {
    "project_name": ((str, int, float), "a text"),
    "log_level": (_TEXT, "INFO, ERROR or DEBUG"),
    "entrypoint": (_TEXT, "a text"),
    "ram": (_NUMBER, "a number of gigabytes"),
    "num_gpus": ((int,), "a whole number"),
    "params": ((dict,), "keys with values"),
    "worker": ((dict,), "keys with values"),
    # Of monitors, which are not there yet.
    "schedule": ((dict,), "keys with values"),
    "monitor_name": (_TEXT, "a text"),
    "mem_limit": ((str, int), "a size"),
}
_WORKER_USED = ("environment",)
_WORKER_KNOWN = (
    "image",
    "entrypoint",
    "command",
    "args",
    "working_dir",
    "volumes",
    "resources",
    "mem_limit",
    "shm_size",
)


class JobConfig:
    """What the file says; None where it says nothing."""

    def __init__(self) -> None:
        self.project_name: Optional[str] = None
        self.log_level: Optional[str] = None
        self.entrypoint: Optional[str] = None
        self.ram: Optional[float] = None
        self.num_gpus: Optional[int] = None
        self.params: Optional[Dict[str, Any]] = None
        self.environment: Dict[str, str] = {}


def read(directory: str) -> JobConfig:
    """The configuration in a job's directory; without a file all is None.

    Unknown keys are warned of, with the nearest known one.

    :raises ConfigurationError: not YAML, or a value of the wrong type; the text names file and line.
    """
    config = JobConfig()
    path = os.path.join(directory, FILE)
    if not os.path.isfile(path):
        return config
    found = read_mapping(path)
    for key, value in found.items():
        place = "{}:{}".format(path, found.lines[key])
        if key not in _KEYS:
            _console.warning("{}: `{}` is not known{}; it is ignored".format(place, key, _nearest(key, _KEYS)))
            continue
        if value is None:
            continue
        types, words = _KEYS[key]
        if isinstance(value, bool) or not isinstance(value, types):
            raise ConfigurationError("{}: `{}` is {}; write {}".format(place, key, _shown(value), words))
        _take(config, key, value, place)
    return config


def _take(config: JobConfig, key: str, value: Any, place: str) -> None:
    if key == "worker":
        config.environment = _worker(value, place.rpartition(":")[0])
    elif key == "ram" or key == "num_gpus":
        check = _config.check_ram if key == "ram" else _config.check_gpus
        try:
            setattr(config, key, check(value))
        except ValueError as error:
            raise ConfigurationError("{}: {}".format(place, error)) from None
    elif key in ("schedule", "monitor_name", "mem_limit"):
        _console.warning("{}: `{}` belongs to monitors, which are not there yet; it is ignored".format(place, key))
    else:
        setattr(config, key, str(value) if key == "project_name" else value)


def _worker(worker: Mapping, path: str) -> Dict[str, str]:
    """The variables for the job; what was meant for a container is told to be ignored."""
    for key in worker:
        place = "{}:{}".format(path, worker.lines[key])
        if key in _WORKER_USED:
            continue
        if key in _WORKER_KNOWN:
            why = "is ignored: jobs run as processes of their node, without a container"
        else:
            why = "is not known{}; it is ignored".format(_nearest(key, _WORKER_USED + _WORKER_KNOWN))
        _console.warning("{}: worker's `{}` {}".format(place, key, why))
    environment = worker.get("environment")
    if environment is None:
        return {}
    place = "{}:{}".format(path, worker.lines["environment"])
    if isinstance(environment, list):
        # As Docker has it: a list of KEY=VALUE.
        pairs = [_variable(line, place, "").partition("=") for line in environment]
        return {key: value for key, _, value in pairs}
    if not isinstance(environment, dict):
        raise ConfigurationError(
            "{}: worker's `environment` is {}; write keys with values".format(place, _shown(environment))
        )
    lines = environment.lines  # type: ignore[attr-defined]
    return {
        key: _variable(value, "{}:{}".format(path, lines[key]), " `{}`".format(key))
        for key, value in environment.items()
    }


def _variable(value: Any, place: str, name: str) -> str:
    if isinstance(value, (dict, list)):
        raise ConfigurationError("{}: the variable{} is {}; write a text".format(place, name, _shown(value)))
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _nearest(key: str, known: Any) -> str:
    from difflib import get_close_matches

    near = get_close_matches(key, list(known), 1)
    return ", did you mean `{}`?".format(near[0]) if near else ""


def _shown(value: Any) -> str:
    names = {"dict": "keys with values", "Mapping": "keys with values", "list": "a list", "bool": "true or false"}
    return names.get(type(value).__name__) or repr(value)[:40]
