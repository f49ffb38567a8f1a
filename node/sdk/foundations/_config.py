"""What a process has set for the jobs that it submits, and `config_manager`, which user code reads and writes."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

_VARIABLE = "FOUNDATIONS_"
# Environments that need no file: this cluster under the names that projects use.
BUILT_IN = ("local", "scheduler")
# As many GPUs as the program's own words take.
_GPUS_MAX = 256
# A number of gigabytes that no machine has is a number of bytes: earlier releases took those.
_GIGABYTES_MAX = 1 << 20


# Where configurations name object stores: our word, the section, its key.
_END_POINTS = (("archive", "results_config", "archive_end_point"), ("cache_store", "cache_config", "end_point"))


class ConfigManager:
    """Configuration by key: what was set, then files that were added, then ``FOUNDATIONS_<KEY>`` variables.

    Example::

        >>> import foundations
        >>> foundations.config_manager["log_level"] = "ERROR"
        >>> foundations.config_manager["log_level"]
        'ERROR'
        >>> foundations.config_manager.reset()
    """

    def __init__(self) -> None:
        self._set: Dict[str, Any] = {}
        self._read: Dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        return self.config()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._set[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self.config()

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or `default`."""
        return self.config().get(key, default)

    def config(self) -> Dict[str, Any]:
        """Everything as one dict. A variable ``FOUNDATIONS_LOG_LEVEL`` is there as ``LOG_LEVEL`` and ``log_level``."""
        merged: Dict[str, Any] = {}
        for name, value in os.environ.items():
            if name.startswith(_VARIABLE) and len(name) > len(_VARIABLE):
                merged[name[len(_VARIABLE) :]] = merged[name[len(_VARIABLE) :].lower()] = value
        merged.update(self._read)
        merged.update(self._set)
        return merged

    def add_config_path(self, path: str) -> None:
        """Reads a YAML file of settings, over those that were added before.

        :raises ConfigurationError: the file is not there, or is not a mapping.
        """
        from ._yaml import read_mapping

        self._read.update(read_mapping(os.fspath(path)))

    def reset(self) -> None:
        """Forgets what was set and added."""
        self._set.clear()
        self._read.clear()


config_manager = ConfigManager()

_project_name: Optional[str] = None
_resources: Dict[str, Any] = {}


def set_project_name(project_name: str = "default") -> None:
    """Names the project of jobs that this process submits, where neither the call nor job.config.yaml names one.

    A script that is started by hand with this call in it, and a name in quotes, is itself a job of that project.

    Example::

        >>> import foundations
        >>> foundations.set_project_name("mnist")
    """
    global _project_name
    _project_name = project_name
    _tell_decided(project_name)


def _tell_decided(name: str) -> None:
    """A script that is a job belongs to a project since its import; a name that was not seen there comes too late."""
    from . import _console, _ending

    decided = os.environ.get("FNODE_PROJECT")
    if _ending.is_execution() and decided and decided != name:
        _console.warning_once(
            "this script is a job of project `{}` since it imported foundations; to have it in `{}`, call "
            "set_project_name with the name in quotes, or set FOUNDATIONS_PROJECT_NAME before".format(decided, name)
        )


def project_name() -> Optional[str]:
    """What `set_project_name` said."""
    return _project_name


def set_job_resources(num_gpus: int = 0, ram: Optional[float] = None) -> None:
    """What jobs ask for that this process submits, where neither the call nor job.config.yaml says.

    :param num_gpus: graphics processors, 0 or more.
    :param ram: memory in gigabytes (10**9 bytes), above 0; None: no wish.
    :raises ValueError: anything else; nothing changes then.

    Example::

        >>> import foundations
        >>> foundations.set_job_resources(num_gpus=0, ram=2)
    """
    _resources.update(num_gpus=check_gpus(num_gpus), ram=None if ram is None else check_ram(ram))


def resources() -> Dict[str, Any]:
    """What `set_job_resources` said."""
    return dict(_resources)


def check_gpus(num_gpus: Any) -> int:
    """A number of graphics processors, or `ValueError`."""
    # A whole number of numpy is one, too: it comes out of searches.
    index = getattr(type(num_gpus), "__index__", None)
    count = -1 if index is None or isinstance(num_gpus, bool) else index(num_gpus)
    if not 0 <= count <= _GPUS_MAX:
        raise ValueError("Invalid GPU quantity {!r}: give a whole number from 0 to {}".format(num_gpus, _GPUS_MAX))
    return count


def check_ram(ram: Any) -> float:
    """Gigabytes, or `ValueError`."""
    if getattr(type(ram), "__index__", None) is not None and not isinstance(ram, bool):
        ram = int(ram)
    if isinstance(ram, bool) or not isinstance(ram, (int, float)) or not 0 < ram < float("inf"):
        raise ValueError("Invalid RAM quantity {!r}: give gigabytes above 0".format(ram))
    return ram


def ram_bytes(ram: float) -> int:
    """Bytes of a number of gigabytes; a number too large for gigabytes is bytes already."""
    return int(ram) if ram > _GIGABYTES_MAX else max(1, int(ram * 10**9))


def set_environment(environment_name: str) -> None:
    """Loads ``<name>.config.yaml`` from ``config/`` here or in ``~/.foundations``.

    `local` and `scheduler` need no file.

    :raises ValueError: there is no such environment.

    Example::

        >>> import foundations
        >>> foundations.set_environment("local")
    """
    path = find_environment(environment_name)
    if path is not None:
        config_manager.add_config_path(path)
    elif environment_name not in BUILT_IN:
        raise ValueError(
            "No environment {} found, please set a valid deployment environment with foundations.set_environment".format(
                environment_name
            )
        )


def foundations_home() -> str:
    """Where Foundations kept its configuration: `FOUNDATIONS_HOME`, else ``~/.foundations``."""
    return os.path.expanduser(os.environ.get("FOUNDATIONS_HOME") or "~/.foundations")


def find_environment(name: str) -> Optional[str]:
    """The file of an environment: this directory's before the user's; None: there is none."""
    return _first_file("{}.config.yaml".format(name), ("config", os.path.join("config", "submission")))


def find_submission_config(name: str) -> Optional[str]:
    """The file of a scheduler's configuration, ``config/submission/<name>.config.yaml``."""
    return _first_file("{}.config.yaml".format(name), (os.path.join("config", "submission"),))


def find_execution_config() -> Optional[str]:
    """The file that plain scripts were tracked with, ``config/execution/default.config.yaml``."""
    return _first_file("default.config.yaml", (os.path.join("config", "execution"),))


def end_points(path: Optional[str]) -> Dict[str, str]:
    """Object stores that a configuration names: ``archive``, ``cache_store``, each only where it is one.

    Plain paths and ``local://``, which old projects have, mean this cluster. Without a file what is set counts.

    :raises ConfigurationError: no YAML, or of a wrong type; the text names file and line.
    """
    from ._yaml import read_mapping

    settings = config_manager.config() if path is None else read_mapping(path)
    found = {}
    for name, section, key in _END_POINTS:
        text = _end_point(path, settings, section, key)
        scheme, is_address, _ = text.partition("://")
        if is_address and scheme in ("sftp", "ssh"):
            from . import _console

            _console.warning_once("{}:// is not supported; what jobs leave stays in this cluster".format(scheme))
        elif is_address and scheme != "local":
            found[name] = text
    return found


def _end_point(path: Optional[str], settings: Any, section: str, key: str) -> str:
    entry = settings.get(section)
    text = entry.get(key) if isinstance(entry, dict) else None
    # What was set by a call or a variable has no line, and other keys of that name may be the project's own.
    if path is not None and entry is not None and not isinstance(entry, dict):
        raise _wrong(path, settings.lines[section], "`{}`".format(section), entry, "keys with values")
    if path is not None and text is not None and not isinstance(text, str):
        raise _wrong(path, entry.lines[key], "{}'s `{}`".format(section, key), text, "a text")
    return str(text or "")


def _wrong(path: str, line: int, name: str, value: Any, words: str) -> Exception:
    from ._errors import ConfigurationError
    from ._job_config import _shown

    return ConfigurationError("{}:{}: {} is {}; write {}".format(path, line, name, _shown(value), words))


def stage_end_points() -> Dict[str, str]:
    """Object stores for a job of stages, whose call names no configuration: those of plain scripts, over them those of
    the scheduler, over them what is set."""
    found: Dict[str, str] = {}
    for path in (find_execution_config(), find_environment("scheduler")):
        if path is not None:
            found.update(end_points(path))
    found.update(end_points(None))
    return found


def _first_file(filename: str, folders: tuple) -> Optional[str]:
    if os.sep in filename:
        return None
    for base in (os.curdir, foundations_home()):
        for folder in folders:
            path = os.path.join(base, folder, filename)
            if os.path.isfile(path):
                return path
    return None
