"""A graph of stages runs in this process: one after the other, each once, results of cached ones found."""

from __future__ import annotations

import os
import sys
import time

from .. import _context, _tracking
from . import record
from .call import call
from .stage import Stage, in_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

    from .._jobs import Deployment
    from .call import Called


def belongs_here() -> bool:
    """Whether ``run()`` runs in this process: in a job that was submitted, but not in a script started by hand."""
    ending = sys.modules.get("foundations._ending")
    by_hand = ending is not None and ending._execution and ending._pid == os.getpid()
    return _context.job_id() is not None and not by_hand


def in_this_job(last: Stage, params: Dict[str, Any], job_name: Optional[str], parallel: bool = False) -> Deployment:
    """Runs a graph in this job; returns when it has ended. `parallel`: independent stages on other nodes, too."""
    from .results import Finished

    if job_name is not None:
        _tracking.set_tag("job_name", job_name)
    run = _conducted(last, params) if parallel else None
    run = run or Run(last, params)
    run.value()
    return Finished(_context.job_id() or "", run)


def _conducted(last: Stage, params: Dict[str, Any]) -> Optional[Run]:
    from . import conduct

    return conduct.begin(last, params)


class Run:
    """One run of one graph. Results live until the last stage that needs them has run."""

    def __init__(self, last: Stage, params: Dict[str, Any]) -> None:
        self.last = last
        self.params = params
        self.outputs: Dict[str, Any] = {}
        self._order = in_order(last)
        self.record = record.begin(last, self._order, params)
        self._entries = {entry["uuid"]: entry for entry in self.record["stages"]}
        self._results: Dict[str, Any] = {}
        # How many stages still need a result.
        self._needed = {stage.uuid(): 0 for stage in self._order}
        for stage in self._order:
            for one in stage._inputs():
                self._needed[one.uuid()] += 1
        self._needed[last.uuid()] += 1

    def value(self) -> Any:
        """Runs everything; returns the last stage's result.

        :raises Exception: what a stage raised.
        """
        self._log_params()
        try:
            self._run_all()
        finally:
            record.write(at_end=True)
        return self._results.get(self.last.uuid())

    def _log_params(self) -> None:
        if self.params and _context.is_tracked():
            from .._parameters import log_params

            log_params(self.params)

    def _run_all(self) -> None:
        for stage in self._order:
            self._run(stage)

    def _run(self, stage: Stage) -> Called:
        entry = self._entries[stage.uuid()]
        entry.update(state="running", started_unix_ms=int(time.time() * 1000), node=os.environ.get("FNODE_NODE"))
        record.write()
        called = call(stage, self._result)
        entry.update(called.entry)
        if called.error is not None:
            raise called.error
        assert called.outcome is not None, "a stage without an error has an outcome"
        self._results[stage.uuid()] = called.outcome.value
        if stage._persisted:
            self._persist(stage, called.outcome.value)
        self._release(stage)
        return called

    def _persist(self, stage: Stage, value: Any) -> None:
        self.outputs[stage.uuid()] = value
        self._entries[stage.uuid()]["output"] = record.keep_output(stage, value)

    def _release(self, stage: Stage) -> None:
        """Lets go of results that only this stage still needed."""
        for one in stage._inputs():
            self._needed[one.uuid()] -= 1
            if not self._needed[one.uuid()]:
                self._results.pop(one.uuid(), None)

    def _result(self, wanted: Any) -> Any:
        if isinstance(wanted, Stage):
            return self._results[wanted.uuid()]
        return self.params[wanted]
