"""What `create_stage` makes: functions that return stages, and stages, which are calls that have not happened yet."""

from __future__ import annotations

import itertools
import os
from hashlib import sha256

from .._errors import ConfigurationError, NotAvailableYetError
from .context import is_context_aware

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

    from .._jobs import Deployment

_SEARCHES = "foundations: {} belongs to searches over stages, which fnode does not have yet; call run in a loop"
# The variable that has stages run in parallel.
PARALLEL = "FNODE_PARALLEL_STAGES"
_YES_AND_NO = {"1": True, "true": True, "0": False, "false": False}
# Containers that are looked through for stages, and how deep.
_CONTAINERS = (list, tuple, dict)
_DEPTH_MAX = 32

_numbers = itertools.count()


class Hyperparameter:
    """A hole in a stage's arguments that ``run(params_dict={name: value})`` fills.

    :param name: None: the name of the argument that it stands for.

    Example::

        >>> import foundations
        >>> def scaled(rows, rate):
        ...     return [row * rate for row in rows]
        >>> stage = foundations.create_stage(scaled)([1, 2], rate=foundations.Hyperparameter())
        >>> stage.run_same_process(rate=3)
        [3, 6]
    """

    def __init__(self, name: Optional[str] = None) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError("the name of a hyperparameter is a text, not {}".format(type(name).__name__))
        self.name = name

    def __repr__(self) -> str:
        return "Hyperparameter({!r})".format(self.name)


class StageFunction:
    """A function, or a class, whose calls return stages."""

    def __init__(self, function: Callable[..., Any]) -> None:
        from functools import update_wrapper

        if not callable(function):
            raise TypeError("create_stage takes a function or a class, not {}".format(type(function).__name__))
        update_wrapper(self, function, updated=())
        self.__wrapped__: Callable[..., Any] = function

    def __call__(self, *args: Any, **kwargs: Any) -> Stage:
        return Stage(self.__wrapped__, args, kwargs)

    def __repr__(self) -> str:
        return "<stage function {}>".format(getattr(self.__wrapped__, "__qualname__", self.__wrapped__))


class Stage:
    """A call that has not happened yet. Other stages among its arguments, also in lists, tuples and dicts, run first.

    ``stage[key]``, ``stage.attribute`` and ``stage.method(…)`` are stages, too; ``stage(…)`` is `run`. A stage runs
    once per run, however often it is used; two calls of a function are two stages.
    """

    def __init__(self, function: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any], kind: str = "call"):
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._kind = kind
        # Here, because a job finds the function by its name: `context_aware(module.f)` has marked it in this process only.
        self._aware = kind == "call" and is_context_aware(function)
        self._required: List[Stage] = []
        self._caching = False
        self._persisted = False
        self._cache_name: Optional[str] = None
        for name, value in [*enumerate(args, 1), *kwargs.items()]:
            _check_ends(value, [], name)
        number = next(_numbers)
        word = "{} {} {}".format(number, self.function_name(), " ".join(one._uuid for one in self._inputs()))
        # The same in every run of the same driver: what was told of two runs can be compared.
        self._uuid = sha256(word.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def run(
        self, params_dict: Optional[Dict[str, Any]] = None, job_name: Optional[str] = None, **kw: Any
    ) -> Deployment:
        """Runs this stage, and all that it needs, as one job; inside of a submitted job, in that one.

        Outside of a job the graph is pickled into the working directory for the time of the submission, and the
        directory is submitted; the job imports the modules that the stages are from, and runs them. What is defined
        in the driver script itself is found by reading the script up to this call. The driver goes on at once.

        :param params_dict: values for hyperparameters by name; ``run(rate=1)`` gives them, too.
        :param job_name: a tag of the job.
        :param parallel: independent stages at the same time, on any node; unless given, `FNODE_PARALLEL_STAGES` (1 or
            0), else `parallel_stages` in ``job.config.yaml``, else False. The job runs stages itself and submits those
            that are ready besides as parts of it, on nodes that have their inputs; results go between nodes pickled.
        :returns: the job.
        :raises TypeError: `params_dict` is no dict. :raises ValueError: a hyperparameter has no value.
        :raises SubmissionError: the job was not accepted, or the graph cannot be carried; the text says why.
        """
        parallel = is_parallel(kw.pop("parallel", None))
        if params_dict is not None and not hasattr(params_dict, "items"):
            raise TypeError("params_dict is a dict of hyperparameters, not {}".format(type(params_dict).__name__))
        params = dict(params_dict or {}, **kw)
        from . import carry, run

        holes = holes_of(self)
        if not carry.is_reading():
            _warn_of_unknown(set(params) - holes)
        missing = sorted(holes - set(params))
        if missing:
            raise ValueError("hyperparameter `{0}` has no value; give run(params_dict={{{0!r}: …}})".format(missing[0]))
        if run.belongs_here() and not carry.is_reading():
            with carry.counted():
                return run.in_this_job(self, params, job_name, parallel)
        return carry.submit(self, params, job_name, parallel)

    __call__ = run

    def run_same_process(self, **params: Any) -> Any:
        """Runs this stage, and all that it needs, here and now; returns its result."""
        from . import run

        return run.Run(self, params).value()

    def stage(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Stage:
        """A stage that calls `function` with this one's result before the other arguments."""
        return Stage(function, (self, *args), kwargs)

    def split(self, num_children: int) -> List[Stage]:
        """Stages for the first elements of this one's result; what has none fails when it runs.

        :raises TypeError: not a whole number. :raises ValueError: below 1.
        """
        if isinstance(num_children, bool) or not hasattr(num_children, "__index__"):
            raise TypeError("split takes a whole number, not {}".format(type(num_children).__name__))
        if num_children < 1:
            raise ValueError("split takes how many stages to make, at least 1, not {}".format(num_children))
        return [self[at] for at in range(num_children)]

    def persist(self) -> Stage:
        """Keeps the result with the job, for `fetch_job_results`; returns this stage."""
        self._persisted = True
        return self

    def enable_caching(self) -> Stage:
        """Keeps the results of this stage and of all that it needs, for any job; returns this stage."""
        return self._set_caching(True)

    def disable_caching(self) -> Stage:
        """Computes this stage and all that it needs anew; returns this stage."""
        return self._set_caching(False)

    def require(self, *stages: Stage) -> Stage:
        """Runs other stages before this one, without their results; returns this stage."""
        for one in stages:
            if not isinstance(one, Stage):
                raise TypeError("require takes stages, not {}".format(type(one).__name__))
        self._required.extend(stages)
        return self

    def name(self) -> str:
        """The function's name."""
        return self.function_name()

    def function_name(self) -> str:
        """The function's name."""
        return str(getattr(self._function, "__name__", self._function))

    def uuid(self) -> str:
        """What names this stage among those of its driver: 32 hex digits, the same in every run of the driver."""
        return self._uuid

    def set_global_cache_name(self, name: str) -> Stage:
        """A name that is part of the cache's key: another one computes again. Returns this stage."""
        self._cache_name = str(name)
        return self

    def grid_search(self, *args: Any, **kwargs: Any) -> Any:
        """Not there yet."""
        raise NotAvailableYetError(_SEARCHES.format("grid_search"))

    def random_search(self, *args: Any, **kwargs: Any) -> Any:
        """Not there yet."""
        raise NotAvailableYetError(_SEARCHES.format("random_search"))

    def adaptive_search(self, *args: Any, **kwargs: Any) -> Any:
        """Not there yet."""
        raise NotAvailableYetError(_SEARCHES.format("adaptive_search"))

    def __getitem__(self, key: Any) -> Stage:
        return Stage(item_of, (self, key), {}, "item")

    def __getattr__(self, name: str) -> AttributeStage:
        if name.startswith("_"):
            # What inspection and pickle ask of any object, also of one that is half made.
            raise AttributeError(name)
        return AttributeStage(attribute_of, (self, name), {}, "attribute")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a stage has no elements before it runs; take stage[0], or stage.split(n)")

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "<stage {} {}>".format(self.function_name(), self._uuid[:8])

    def _inputs(self) -> List[Stage]:
        """The stages that this one's arguments hold, and those that it requires, each once."""
        found: Dict[int, Stage] = {}
        for value in (self._args, self._kwargs, self._required):
            _find(value, found, 0)
        return list(found.values())

    def _set_caching(self, caching: bool) -> Stage:
        for one in in_order(self):
            one._caching = caching
        return self


class AttributeStage(Stage):
    """An attribute of a result. Called, it is a stage that calls what the attribute is."""

    def __call__(self, *args: Any, **kwargs: Any) -> Stage:  # type: ignore[override]
        owner, name = self._args
        return Stage(call_method, (owner, name, args, kwargs), {}, "method")


def create_stage(function: Callable[..., Any]) -> Callable[..., Stage]:
    """Makes a function, or a class, whose calls are stages: they happen when the last of them is run.

    Example::

        >>> import foundations
        >>> load = foundations.create_stage(lambda size: list(range(size)))
        >>> total = foundations.create_stage(sum)
        >>> total(load(4)).run_same_process()
        6
    """
    if isinstance(function, StageFunction):
        return function
    return StageFunction(function)


def item_of(value: Any, key: Any) -> Any:
    """What ``stage[key]`` is when it runs."""
    return value[key]


def attribute_of(value: Any, name: str) -> Any:
    """What ``stage.name`` is when it runs."""
    return getattr(value, name)


def call_method(value: Any, name: str, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
    """What ``stage.name(…)`` is when it runs."""
    return getattr(value, name)(*args, **kwargs)


def inputs_of(stage: Stage) -> List[Stage]:
    """The stages whose results a stage takes, each once; those that it only requires are not among them."""
    found: Dict[int, Stage] = {}
    for value in (stage._args, stage._kwargs):
        _find(value, found, 0)
    return list(found.values())


def is_parallel(given: Optional[bool]) -> bool:
    """Whether stages run in parallel: as the call says, else the variable, else the project's file.

    :raises TypeError: the call says neither. :raises ConfigurationError: the variable or the file says neither.
    """
    if given is not None:
        if not isinstance(given, bool):
            raise TypeError("parallel is True or False, not {!r}".format(given))
        return given
    said = os.environ.get(PARALLEL, "").lower()
    if said:
        if said not in _YES_AND_NO:
            raise ConfigurationError("{} is {!r}; write 1 or 0".format(PARALLEL, said))
        return _YES_AND_NO[said]
    from .. import _job_config

    return bool(_job_config.read(os.getcwd()).parallel_stages)


def _warn_of_unknown(names: Set[Any]) -> None:
    from .. import _console

    if names:
        shown = ", ".join("`{}`".format(name) for name in sorted(map(str, names)))
        _console.warning("no stage has a hyperparameter {}; it is logged with the job, and used by none".format(shown))


def _check_ends(value: Any, holders: List[int], name: Any) -> None:
    """Refuses what contains itself: stages in it would be looked for without an end."""
    if type(value) not in _CONTAINERS or len(holders) >= _DEPTH_MAX:
        return
    if id(value) in holders:
        shown = "argument {}".format(name) if isinstance(name, int) else "argument `{}`".format(name)
        raise TypeError("{} of a stage is a {} that contains itself".format(shown, type(value).__name__))
    holders.append(id(value))
    for one in value.values() if type(value) is dict else value:
        if type(one) in _CONTAINERS:
            _check_ends(one, holders, name)
    holders.pop()


def _find(value: Any, found: Dict[int, Stage], depth: int) -> None:
    if isinstance(value, Stage):
        found.setdefault(id(value), value)
    elif depth < _DEPTH_MAX and type(value) in (list, tuple):
        for one in value:
            _find(one, found, depth + 1)
    elif depth < _DEPTH_MAX and type(value) is dict:
        for one in value.values():
            _find(one, found, depth + 1)


def replaced(value: Any, results: Callable[[Any], Any], name: Optional[str] = None, depth: int = 0) -> Any:
    """`value` with every stage and hyperparameter in it replaced by what `results` gives; others stay themselves."""
    if isinstance(value, Stage):
        return results(value)
    if isinstance(value, Hyperparameter):
        return results(value.name or name)
    if depth >= _DEPTH_MAX:
        return value
    if type(value) in (list, tuple):
        new = [replaced(one, results, name, depth + 1) for one in value]
        return value if all(a is b for a, b in zip(new, value)) else type(value)(new)
    if type(value) is dict:
        changed = {key: replaced(one, results, name, depth + 1) for key, one in value.items()}
        return value if all(changed[key] is value[key] for key in value) else changed
    return value


def argument_names(stage: Stage) -> List[str]:
    """Names for the positional arguments, as far as the function has any."""
    from .._cache.key import Binder

    names: List[str] = []
    if stage._kind == "call":
        names = list(Binder(stage._function).names)
    return names + [""] * len(stage._args)


def in_order(last: Stage) -> List[Stage]:
    """All stages that `last` needs, and itself, each after those that it needs.

    :raises ValueError: they need each other in a circle.
    """
    order: List[Stage] = []
    done: Set[int] = set()
    under_way: Set[int] = {id(last)}
    work: List[Tuple[Stage, Iterator[Stage]]] = [(last, iter(last._inputs()))]
    while work:
        stage, inputs = work[-1]
        into = next((one for one in inputs if id(one) not in done), None)
        if into is None:
            work.pop()
            under_way.discard(id(stage))
            done.add(id(stage))
            order.append(stage)
        elif id(into) in under_way:
            raise ValueError("{!r} and {!r} need each other".format(stage, into))
        else:
            under_way.add(id(into))
            work.append((into, iter(into._inputs())))
    return order


def holes_of(last: Stage) -> Set[str]:
    """The names of all hyperparameters.

    :raises ValueError: one inside of a list or the like has no name.
    """
    names: Set[str] = set()

    def note(given: Any) -> Any:
        if isinstance(given, Stage):
            return given
        if not given:
            raise ValueError("a hyperparameter that is no argument of its own needs a name: Hyperparameter('rate')")
        names.add(given)
        return given

    for stage in in_order(last):
        fill(stage, note)
    return names


def fill(stage: Stage, results: Callable[[Any], Any]) -> Tuple[List[Any], Dict[str, Any]]:
    """A stage's arguments with results in the place of stages and hyperparameters."""
    names = argument_names(stage) if any(isinstance(one, Hyperparameter) for one in stage._args) else None
    args = [replaced(one, results, names[at] if names else None) for at, one in enumerate(stage._args)]
    return args, {name: replaced(one, results, name) for name, one in stage._kwargs.items()}
