"""Every error that this package raises of its own.

::

    FoundationsError
     ├── ConfigurationError (ValueError)            an argument or a configuration file is wrong
     │    └── ParametersError                       foundations_job_parameters.json is not a JSON object
     ├── UnknownProjectError (ValueError)           no project of that name
     ├── MissingPackageError (ImportError)          pandas is needed for data frames
     ├── NotAvailableYetError (NotImplementedError) a part of Foundations that is not there yet
     ├── TrackError (OSError)                       a metric, tag or file could not be written down
     ├── SubmissionError (RuntimeError)             a job was not accepted
 ├── RemoteException (RuntimeError)             a job whose stages were asked for has failed
     └── DaemonError                                the node's daemon
          ├── NoDaemonError (ConnectionError)       none answers on this machine
          ├── DaemonTimeoutError (TimeoutError)     no answer in time; whether it was done is not known
          └── RefusedError                          it said no, and why
               └── NotFoundError (LookupError)      no such job, file or series

Wrong arguments raise Python's own ``TypeError`` and ``ValueError``, as Foundations did.
"""

from __future__ import annotations


class FoundationsError(Exception):
    """The root of the tree; its text is one line that says what failed, why, and what to do."""


class ConfigurationError(FoundationsError, ValueError):
    """An argument or a configuration file is wrong; the text names the file and the line where it has one."""


class ParametersError(ConfigurationError):
    """``foundations_job_parameters.json`` does not hold a JSON object."""


class UnknownProjectError(FoundationsError, ValueError):
    """No project of that name has jobs."""


class MissingPackageError(FoundationsError, ImportError):
    """A package that this one call needs is not installed."""


class NotAvailableYetError(FoundationsError, NotImplementedError):
    """The name exists in Foundations; fnode does not have that part yet."""


class TrackError(FoundationsError, OSError):
    """The file that tracks this job could not be written; the text has the system's reason."""


class SubmissionError(FoundationsError, RuntimeError):
    """A job was not accepted; the text is the reason that ``fnode submit`` gave."""


class RemoteException(FoundationsError, RuntimeError):
    """A job whose results were asked for has failed; the text names the stage, and what it raised."""


class DaemonError(FoundationsError):
    """Something between this process and the daemon of this machine's node."""


class NoDaemonError(DaemonError, ConnectionError):
    """No daemon answers on this machine."""


class DaemonTimeoutError(DaemonError, TimeoutError):
    """The daemon did not answer in time; whether it did what was asked is not known."""


class RefusedError(DaemonError):
    """The daemon answered, and refused.

    ``status`` is the HTTP status, ``code`` the reason for programs (``bad_input``, ``conflict``, …), ``hint`` what
    to do; the text joins message and hint.
    """

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message + "; " + hint if hint else message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint


class NotFoundError(RefusedError, LookupError):
    """There is no such job, file or series."""
