"""How this process ends: the uncaught exception, what it ran with, and in execution mode its exit code.

Nothing here runs before the end but three assignments. Forked children end without any of it.
"""

from __future__ import annotations

import atexit
import builtins
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Callable, List, Optional, Type

# Lines of a traceback that are kept from each of its ends.
_TRACEBACK_ENDS = 50
_TEXT_MAX = 4096
# What the shell says of a program that Ctrl-C ended.
_INTERRUPTED = 130

# Tells the programs that a job starts that its record is somebody's already.
_RECORDED = "FNODE_RECORDED"

_pid = 0
_execution = False
_records = False
_failed = False
_interrupted = False
_code = 0
_before: Optional[Callable[..., None]] = None
_last_duties: List[Callable[[], None]] = []


def watch(execution: bool = False) -> None:
    """From now on this process's end is written down; in execution mode its exit code, too."""
    global _pid, _execution, _records, _before
    if _pid == os.getpid():
        return
    _pid, _execution = os.getpid(), execution
    # Once per job: programs that a job starts run with what it runs with.
    _records = _RECORDED not in os.environ
    os.environ[_RECORDED] = "1"
    _before, sys.excepthook = sys.excepthook, _on_exception
    atexit.register(_on_exit)
    if execution:
        sys.exit = _exit  # type: ignore[assignment]
        for name in ("exit", "quit"):
            if hasattr(builtins, name):
                setattr(builtins, name, _exit)


def is_execution() -> bool:
    """Whether this process is a script that was started by hand and is a job by its import."""
    return _execution and _pid == os.getpid()


def at_end(duty: Callable[[], None]) -> None:
    """Runs `duty` at the end of this process, while the job is still open."""
    _last_duties.append(duty)
    if _pid == 0:
        watch()


class _Exit(SystemExit):
    """A `SystemExit` that notices when the interpreter itself, and not a program's handler, asks for its code.

    The interpreter ends without telling anybody the code. It reads `code` once, with no Python code on the stack.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._given = args[0] if len(args) == 1 else (args or None)

    @property
    def code(self) -> Any:  # type: ignore[override]
        global _code
        try:
            sys._getframe(1)
        except ValueError:
            _code = _number(self._given)
        return self._given

    @code.setter
    def code(self, given: Any) -> None:
        self._given = given


def _exit(status: object = None) -> None:
    """`sys.exit`, noticed."""
    raise _Exit() if status is None else _Exit(status)


def _number(status: object) -> int:
    if status is None:
        return 0
    # Any other object is printed by the interpreter, which then exits with 1.
    return status & 0xFF if isinstance(status, int) else 1


def _on_exception(kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]) -> None:
    global _failed, _interrupted, _code
    if os.getpid() == _pid:
        _failed = True
        _interrupted = issubclass(kind, KeyboardInterrupt)
        _code = _INTERRUPTED if _interrupted else 1
        _write_exception(kind, error, trace)
    if _before is not None:
        _before(kind, error, trace)


def _write_exception(kind: Type[BaseException], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
    import traceback

    try:
        lines = traceback.format_tb(trace)
        text = "".join(traceback.format_exception_only(kind, error)).strip()
    except Exception:
        # An exception whose own text fails has at least a name.
        lines, text = [], kind.__name__
    if len(lines) > 2 * _TRACEBACK_ENDS:
        lines[_TRACEBACK_ENDS:-_TRACEBACK_ENDS] = ["  ...\n"]
    kept = [line[:_TEXT_MAX] for line in lines]
    word = {"type": kind.__name__, "exception": text[:_TEXT_MAX], "traceback": kept}
    while not _write('"e"', word) and kept:
        # Too long for one line: the innermost calls say most.
        del kept[: (len(kept) + 1) // 2]


def _on_exit() -> None:
    global _code
    if os.getpid() != _pid:
        return
    for duty in _last_duties:
        try:
            duty()
        except Exception as error:
            from . import _console

            _console.warning("not done at the end of the job: {}".format(error))
    if _records:
        _write_record()
    if _execution:
        missed: Optional[BaseException] = getattr(sys, "last_value", None)
        if not _failed and sys.excepthook is not _on_exception and missed is not None:
            # Another library took the hook over and did not pass the exception on.
            _code = 1
            _write_exception(type(missed), missed, missed.__traceback__)
        _write('"x"', _code)
    # A prompt outlives what is interrupted at it.
    if _interrupted and not hasattr(sys, "ps1"):
        _end_by_signal()


def _end_by_signal() -> None:
    """Lets the interpreter die of SIGINT once it is done, as it does after Ctrl-C: loops of a shell end with it.

    It remembers the interrupt until some text is evaluated, as imports do at our end (``namedtuple``). An interrupt that
    leaves an evaluated text makes it remember again; nobody else's work at the end is cut off, as by a signal sent now.
    """
    try:
        exec("raise KeyboardInterrupt")
    except KeyboardInterrupt:
        return


def _write_record() -> None:
    from . import _record

    record = _record.at_end(with_git=_execution)
    for longest in ("git_diff", "packages", None):
        if _write('"r"', record) or longest is None:
            return
        # What is longest is left out; the rest is not lost with it.
        record.pop(longest, None)


def _write(word: str, value: object) -> bool:
    """Writes a line if it is short enough; True unless it was too long. The end of a process raises nothing."""
    from . import _errors, _track
    from ._values import json_text

    try:
        line = _track.line(word, json_text(value, "the record"))
        if len(line) > _track.LINE_MAX:
            return False
        track = _track.current()
        if track is not None:
            track.write(line)
    except (_errors.TrackError, TypeError, ValueError) as error:
        from . import _console

        _console.warning(str(error))
    return True
