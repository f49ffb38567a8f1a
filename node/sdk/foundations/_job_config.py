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
    "log_level": (_TEXT, "DEBUG, INFO, WARNING or ERROR"),
    "entrypoint": (_TEXT, "a text"),
    "ram": (_NUMBER, "a number of gigabytes"),
    "num_gpus": ((int,), "a whole number"),
    "params": ((dict,), "keys with values"),
    "worker": ((dict,), "keys with values"),
    "parallel_stages": ((bool,), "true or false"),
    # Of monitors, which are not there yet.
    "schedule": ((dict,), "keys with values"),
    "monitor_name": (_TEXT, "a text"),
    "mem_limit": ((str, int), "a size"),
}
# Words of the standard loggers; Foundations knew the first three and was silent with every other.
_LOG_LEVELS = ("DEBUG", "INFO", "ERROR", "WARNING", "WARN", "CRITICAL", "FATAL")
# Longest name of a project, in bytes.
_NAME_MAX = 256

_TEXT_OR_LIST = ((str, list), "a text or a list")
_SIZE = ((str, int), "a size")
_KEYS_OR_LIST = ((dict, list), "keys with values")
# Of `worker`, what Foundations and its users wrote there, and what it may be.
_WORKER: Dict[str, Tuple[tuple, str]] = {
    "environment": _KEYS_OR_LIST,
    "image": (_TEXT, "a text"),
    "entrypoint": _TEXT_OR_LIST,
    "command": _TEXT_OR_LIST,
    "args": _TEXT_OR_LIST,
    "working_dir": (_TEXT, "a text"),
    "volumes": _KEYS_OR_LIST,
    "resources": ((dict,), "keys with values"),
    "mem_limit": _SIZE,
    "shm_size": _SIZE,
    "network_mode": (_TEXT, "a text"),
}
# What else Docker's own library takes there (and two words of Kubernetes), whatever it is.
_WORKER_MORE = tuple(
    "auto_remove blkio_weight cap_add cap_drop cpu_count cpu_percent cpu_period cpu_quota cpu_shares cpuset_cpus "
    "cpuset_mems detach device_requests devices dns dns_opt dns_search domainname extra_hosts group_add healthcheck "
    "hostname init ipc_mode isolation labels links log_config mem_reservation mem_swappiness memswap_limit name "
    "nano_cpus network network_disabled oom_kill_disable oom_score_adj pid_mode pids_limit platform ports privileged "
    "publish_all_ports read_only remove restart_policy runtime security_opt stdin_open stop_signal storage_opt sysctls "
    "tmpfs tty ulimits user userns_mode volume_driver volumes_from imagePullPolicy workingDir".split()
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
        self.parallel_stages: Optional[bool] = None
        self.environment: Dict[str, str] = {}


def read(directory: str) -> JobConfig:
    """The configuration in a job's directory; without a file all is None.

    Unknown keys are warned of, with the nearest known one.

    :raises ConfigurationError: not YAML, or a value of the wrong type; the text names file and line.
    """
    config = JobConfig()
    path = os.path.join(directory, FILE)
    if not os.path.lexists(path):
        return config
    found = read_mapping(path)
    for key, value in found.items():
        place = "{}:{}".format(path, found.lines[key])
        if key not in _KEYS:
            _console.warning_once("{}: `{}` is not known{}; it is ignored".format(place, key, _nearest(key, _KEYS)))
            continue
        if value is None:
            continue
        _check(value, _KEYS[key], place, "`{}`".format(key))
        _take(config, key, value, place)
    return config


def _check(value: Any, wanted: Tuple[tuple, str], place: str, name: str) -> None:
    types, words = wanted
    # To Python a bool is an int.
    if isinstance(value, bool) != (types == (bool,)) or not isinstance(value, types):
        raise ConfigurationError("{}: {} is {}; write {}".format(place, name, _shown(value), words))


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
        _console.warning_once("{}: `{}` belongs to monitors, which are not there yet; it is ignored".format(place, key))
    elif key == "log_level":
        if value.upper() not in _LOG_LEVELS:
            raise ConfigurationError("{}: `log_level` is {}; write {}".format(place, _shown(value), _KEYS[key][1]))
        config.log_level = value.upper()
    elif key == "project_name":
        config.project_name = _project(str(value), place)
    else:
        setattr(config, key, value)


def _project(name: str, place: str) -> str:
    if not name:
        what = "write a name, or leave the line out"
    elif "/" in name or name in (".", ".."):
        what = "leave out slashes and dots alone"
    elif len(name.encode("utf-8", "replace")) > _NAME_MAX:
        what = "it has more than {} bytes".format(_NAME_MAX)
    elif any(ord(one) < 32 or 127 <= ord(one) < 160 for one in name):
        what = "write one line of printable text"
    else:
        return name
    raise ConfigurationError("{}: {} cannot name a project; {}".format(place, _shown(name), what))


def _worker(worker: Mapping, path: str) -> Dict[str, str]:
    """The variables for the job; what was meant for a container is told to be ignored."""
    for key, value in worker.items():
        place = "{}:{}".format(path, worker.lines[key])
        if key in _WORKER and value is not None:
            _check(value, _WORKER[key], place, "worker's `{}`".format(key))
        if key == "environment":
            continue
        if key in _WORKER or key in _WORKER_MORE:
            why = "is ignored: jobs run as processes of their node, without a container"
        else:
            why = "is not known{}; it is ignored".format(_nearest(key, _WORKER))
        # A search submits the same directory a hundred times.
        _console.warning_once("{}: worker's `{}` {}".format(place, key, why))
    environment = worker.get("environment")
    if environment is None:
        return {}
    place = "{}:{}".format(path, worker.lines["environment"])
    if isinstance(environment, list):
        # As Docker has it: a list of KEY=VALUE.
        variables = {}
        for line in environment:
            if not isinstance(line, str):
                raise ConfigurationError("{}: a variable is {}; write NAME=VALUE".format(place, _shown(line)))
            key, _, value = line.partition("=")
            variables[_checked_name(key, place)] = value
        return variables
    variables = {}
    for key, value in environment.items():
        place = "{}:{}".format(path, environment.lines[key])  # type: ignore[attr-defined]
        variables[_checked_name(key, place)] = _variable(value, place, key)
    return variables


def _checked_name(name: str, place: str) -> str:
    """A name that every shell and every system takes."""
    if name.isascii() and name.isidentifier():
        return name
    what = "write letters, digits and _, not beginning with a digit"
    raise ConfigurationError("{}: {} cannot name a variable; {}".format(place, _shown(name), what))


def _variable(value: Any, place: str, name: str) -> str:
    if isinstance(value, (dict, list)):
        raise ConfigurationError("{}: the variable `{}` is {}; write a text".format(place, name, _shown(value)))
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _nearest(key: str, known: Any) -> str:
    from difflib import get_close_matches

    near = get_close_matches(key, list(known), 1)
    return ", did you mean `{}`?".format(near[0]) if near else ""


def _shown(value: Any) -> str:
    names = {"dict": "keys with values", "Mapping": "keys with values", "list": "a list", "bool": "true or false"}
    names["NoneType"] = "empty"
    return names.get(type(value).__name__) or repr(value)[:40]
