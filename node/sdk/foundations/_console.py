"""Lines for people: ``Foundations INFO: …`` on standard output, as Foundations wrote and users' tools look for.

`say` prints without the `logging` package, whose import costs more than this whole package; `log_manager` gives
users real loggers that write the same way. Both obey the level of `config_manager` (`log_level`).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

_LEVELS = {"DEBUG": 10, "INFO": 20, "WARN": 30, "WARNING": 30, "ERROR": 40}
_SILENT = 100

# Warnings that are said once per process.
_said: set[str] = set()


def level() -> int:
    """The number below which nothing is printed: `log_level` is INFO unless set; unknown words silence."""
    config = sys.modules.get(__package__ + "._config")
    word = config.config_manager.get("log_level") if config else os.environ.get("FOUNDATIONS_LOG_LEVEL")
    return _LEVELS.get(str(word).upper(), _SILENT) if word else _LEVELS["INFO"]


def say(word: str, text: str) -> None:
    """Prints one line at the level `word`; a closed standard output is not this job's problem."""
    if _LEVELS[word] < level():
        return
    try:
        sys.stdout.write("Foundations {}: {}\n".format(word, text))
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        # A closed pipe, a closed file, no standard output at all.
        return


def info(text: str) -> None:
    """One line of the story."""
    say("INFO", text)


def warning(text: str) -> None:
    """Something that the user may have wanted otherwise."""
    say("WARNING", text)


def warning_once(text: str) -> None:
    """As `warning`, once per process for the same text."""
    if text not in _said:
        _said.add(text)
        warning(text)


def not_a_job() -> None:
    """What the tracking calls say, once, where there is no job to track."""
    warning_once("Script not run with Foundations.")


def quiet_not_a_job() -> None:
    """For a script that was told already why it is not tracked."""
    _said.add("Script not run with Foundations.")


class LogManager:
    """Loggers of this package: ``foundations.log_manager.get_logger(__name__).info("…")``."""

    def get_logger(self, name: str) -> logging.Logger:
        """A standard logger whose lines go to standard output as ``Foundations LEVEL: …``.

        Its level is `log_level` of the configuration at the time of the call.
        """
        import logging

        logger = logging.getLogger(name)
        if not any(isinstance(handler, _handler_class()) for handler in logger.handlers):
            logger.addHandler(_handler_class()())
            logger.propagate = False
        logger.setLevel(level())
        return logger


def _handler_class() -> type:
    """The handler, made at first use because its base class is `logging`'s."""
    global _handler
    if _handler is None:
        import logging

        class Handler(logging.Handler):
            """Writes to what standard output is now, not to what it was when the logger was made."""

            def emit(self, record: logging.LogRecord) -> None:
                try:
                    sys.stdout.write("Foundations {}: {}\n".format(record.levelname, self.format(record)))
                    sys.stdout.flush()
                except (OSError, ValueError, AttributeError):
                    return

        _handler = Handler
    return _handler


_handler: type | None = None
log_manager = LogManager()
