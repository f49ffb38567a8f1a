"""Track, launch and read machine-learning jobs on an fnode cluster, with the names of Foundations (Atlas).

In a job, or in a script started with plain ``python script.py`` while a daemon runs, the tracking calls keep
metrics, parameters, tags and files with the job. Elsewhere they check their arguments and do nothing.

Example::

    import foundations

    params = foundations.load_parameters()
    for step in range(params.get("steps", 3)):
        foundations.log_metric("loss", 1.0 / (step + 1), step=step)

Nothing but this table is read at import: each name brings its module when it is first used, because a job that
starts a thousand times a minute pays for every import.
"""

from __future__ import annotations

import os as _os

from . import _staged

# What type checkers read; at run time `typing` alone would cost more than the rest of this import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import artifacts, global_state, job_parameters, parameters, prototype, testing
    from ._artifacts import SyncableDirectory, create_syncable_directory, save_artifact, set_tensorboard_logdir
    from ._cache.cached import cache
    from ._cache.files import Directory, File
    from ._config import config_manager, set_environment, set_job_resources, set_project_name
    from ._console import log_manager
    from ._errors import (
        ConfigurationError,
        DaemonError,
        DaemonTimeoutError,
        FoundationsError,
        MissingPackageError,
        NoDaemonError,
        NotAvailableYetError,
        NotFoundError,
        ParametersError,
        RefusedError,
        RemoteException,
        SubmissionError,
        TrackError,
        UnknownProjectError,
    )
    from ._frames import get_metrics_for_all_jobs
    from ._jobs import Deployment, JobStatus, wait_on_deployment_set
    from ._later import (
        DiscreteHyperparameter,
        FloatingHyperparameter,
        IntegerHyperparameter,
        track_production_metrics,
    )
    from ._parameters import flatten_parameter_dictionary, load_parameters, log_param, log_params
    from ._queue import archive_jobs, cancel_queued_jobs, get_queued_jobs
    from ._stages.context import context_aware
    from ._stages.results import Job, JobPersister, ResultReader
    from ._stages.stage import Hyperparameter, create_stage
    from ._submit import deploy, submit
    from ._tracking import log_metric, log_metrics, set_tag
    from .parameters.generate_random_parameters import generate_random_parameters

__version__ = "0.1.0"

# Private module: the public names in it.
_HOMES = {
    "_artifacts": (
        "SyncableDirectory",
        "create_syncable_directory",
        "save_artifact",
        "set_tensorboard_logdir",
    ),
    "_cache.cached": ("cache",),
    "_cache.files": ("Directory", "File"),
    "_config": ("config_manager", "set_environment", "set_job_resources", "set_project_name"),
    "_console": ("log_manager",),
    "_errors": (
        "ConfigurationError",
        "DaemonError",
        "DaemonTimeoutError",
        "FoundationsError",
        "MissingPackageError",
        "NoDaemonError",
        "NotAvailableYetError",
        "NotFoundError",
        "ParametersError",
        "RefusedError",
        "RemoteException",
        "SubmissionError",
        "TrackError",
        "UnknownProjectError",
    ),
    "_frames": ("get_metrics_for_all_jobs",),
    "_jobs": ("Deployment", "JobStatus", "wait_on_deployment_set"),
    "_later": (
        "DiscreteHyperparameter",
        "FloatingHyperparameter",
        "IntegerHyperparameter",
        "track_production_metrics",
    ),
    "_parameters": ("flatten_parameter_dictionary", "load_parameters", "log_param", "log_params"),
    "_queue": ("archive_jobs", "cancel_queued_jobs", "get_queued_jobs"),
    "_stages.context": ("context_aware",),
    "_stages.results": ("Job", "JobPersister", "ResultReader"),
    "_stages.stage": ("Hyperparameter", "create_stage"),
    "_submit": ("deploy", "submit"),
    "_tracking": ("log_metric", "log_metrics", "set_tag"),
    "parameters.generate_random_parameters": ("generate_random_parameters",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ("artifacts", "global_state", "job_parameters", "parameters", "prototype", "testing")

__all__ = sorted((*_HOME_OF, *_MODULES, "__version__"))


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _MODULES:
        return import_module("." + name, __name__)
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError("module 'foundations' has no attribute " + repr(name))
    value = getattr(import_module("." + home, __name__), name)
    # From now on this is an ordinary attribute: no call to here per logged metric.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)


_staged.install()
if _os.environ.get("FNODE_TRACK"):
    from . import _ending

    _ending.watch()
elif "FNODE_JOB_ID" not in _os.environ:
    from . import _execution

    _execution.begin_if_wanted()
