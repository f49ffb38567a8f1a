"""The table of mutations: what must, and what must not, make a cached call compute again.

A small project is run once; then each mutation changes one thing in a copy of it and runs that in a new process, with
another hash seed, against the cache that the first run has filled. ``must`` is ``miss`` (what the call returns may
differ, so a hit would be stale) or ``hit`` (nothing that counts has changed, so computing is needless).

`test_cache_mutations.py` runs it for this package, `benches/cache_mutations.py` for others beside it.
"""

import itertools
import os
import shutil
import subprocess
import sys

SDK = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Seconds that one run may take on a busy machine.
TIMEOUT_S = 120

PROJECT = {
    "main.py": '''\
import contextlib
import functools
import importlib
import os
import sys
from pathlib import Path

import fakepkg
import helpers
import models
import parsers.text
import settings
from constants import *
from helpers import scaled
from tool import cached, call

LIMIT = 10
UNUSED = 1
ZERO = 0.0
TABLE = {"a": 1, "b": [2, 3]}
ROOT = Path(__file__).parent


def make(power):
    def inner(x):
        return x**power

    return inner


power = make(2)
double = lambda x: x * 2
shifted = functools.partial(pow, 2)
registry = {"one": lambda x: x + 1}


def defaulted(x, y=1):
    return x + y


def mutable(x, seen=[1, 2]):
    return x + len(seen)


def keyword(x, *, factor=3):
    return x * factor


def even(n):
    return n == 0 or odd(n - 1)


def odd(n):
    return n != 0 and even(n - 1)


def noisy(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args) + 1

    return wrapper


@noisy
def decorated(x):
    return x


@functools.lru_cache(maxsize=None)
def remembered(x):
    return x * 3


@fakepkg.twice
def wrapped(x):
    return x


@contextlib.contextmanager
def managed():
    yield MANAGED


def within(x):
    with managed() as value:
        return x + value


MANAGED = 6


def times(factor):
    def decorate(function):
        return lambda x: function(x) * factor

    return decorate


@times(5)
def multiplied(x):
    return x


def generated(x):
    yield from (y + SHIFT for y in range(x))


def by_text(x):
    return importlib.import_module("plugins.one").run(x)


def nested(x):
    class Inner:
        offset = INNER

        def value(self):
            return x + self.offset

    return [Inner().value() for _ in range(2)]


def attempted(x):
    try:
        import missing_module as late_module
    except ImportError:
        import late2 as late_module
    return late_module.run(x)


SHIFT = 2
INNER = 3


@cached(depends_on=["FACTOR"])
def work(rows, path, model, options, tags, seed=0, extra=None):
    """Adds it all up."""
    print("RAN")
    import late

    total = sum(scaled(row) for row in rows) + helpers.offset(1) + helpers.RATE + LIMIT + ZERO
    total += power(2) + double(2) + shifted(1) + registry["one"](1)
    total += defaulted(1) + mutable(1) + keyword(1) + even(4) + decorated(1) + remembered(2)
    total += model.predict(1) + model.size + models.Model.make(1).predict(2)
    total += settings.current.rate + models.Color.RED.value + models.Point(1).y + models.Pair(1).b
    total += STAR + TABLE["b"][0] + late.late(1) + parsers.text.length("x") + len(fakepkg.name())
    total += int(os.environ.get("FACTOR", "1")) + options["a"] + len(tags)
    total += sum(step(1) for step in helpers.STEPS)
    total += wrapped(3) + within(1) + multiplied(2) + sum(generated(3)) + by_text(1) + sum(nested(1)) + attempted(1)
    total += models.Mixed().order() + models.Described().field + models.Meta.made + sum(models.Sized(2)) + models.byname(1)
    if total > 10**9 or "nothing" in options:
        total = 0
    return total + len(Path(path).read_text())


def arguments():
    return dict(
        rows=[1, 2.5, 3],
        path=Path("data/rows.csv"),
        model=models.Model(3),
        options={"a": 1, "b": (2, None)},
        tags={"x", "y", "z"},
    )


if __name__ == "__main__":
    print("VALUE", call(work, arguments()))
''',
    "helpers.py": """\
import math

RATE = 0.5
UNUSED = 7


def scaled(x):
    return _deep(x) * 2


def _deep(x):
    return _deeper(x) + 1


def _deeper(x):
    return math.floor(x)


def offset(x):
    return x + 100


def first(x):
    return x


def second(x):
    return x * 2


STEPS = [first, second]


def unrelated(x):
    return x - 1
""",
    "models.py": """\
import enum
from collections import namedtuple
from dataclasses import dataclass


class Base:
    bias = 1

    def prepared(self, x):
        return x + self.bias


class Model(Base):
    scale = 2

    def __init__(self, size):
        self.size = size

    def predict(self, x):
        return self.prepared(x) * self.scale * self.factor

    @property
    def factor(self):
        return 3

    @classmethod
    def make(cls, size):
        return cls(size + cls.extra())

    @staticmethod
    def extra():
        return 0


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Point:
    x: int
    y: int = 5


class Left:
    def order(self):
        return 1


class Right:
    def order(self):
        return 2


class Mixed(Left, Right):
    pass


class Descriptor:
    def __get__(self, instance, owner):
        return 4


class Described:
    field = Descriptor()


class MetaClass(type):
    @property
    def made(cls):
        return 5


class Meta(metaclass=MetaClass):
    pass


def doubled(cls):
    cls.__iter__ = lambda self: iter([self.n, self.n])
    return cls


@doubled
class Sized:
    __slots__ = ("n",)

    def __init__(self, n):
        self.n = n


def _named(x):
    return x


def byname(x):
    return globals()["_named"](x)


Pair = namedtuple("Pair", "a b", defaults=[2])
""",
    "other_models.py": "class Base:\n    x = 0\n\n\nclass Unrelated(Base):\n    x = 1\n",
    "settings.py": """\
from other_models import Base as Other
from other_models import Unrelated


class Settings:
    def __init__(self, rate):
        self.rate = rate


current = Settings(0.25)
""",
    "constants.py": "STAR = 4\nOTHER = 5\n",
    "late.py": "def late(x):\n    return x + 1\n\n\ndef other(x):\n    return x\n",
    "late2.py": "def run(x):\n    return x + 7\n",
    "plugins/__init__.py": "",
    "plugins/one.py": "def run(x):\n    return x + 8\n",
    "plugins/two.py": "def run(x):\n    return x + 9\n",
    "parsers/__init__.py": "",
    "parsers/text.py": "def length(text):\n    return len(text)\n",
    "parsers/other.py": "X = 1\n",
    "data/rows.csv": "1,2\n3,4\n",
    "site-packages/fakepkg/__init__.py": """\
import functools


def name():
    return 'fake'


def twice(function):
    @functools.wraps(function)
    def wrapper(x):
        return function(x) * 2
    return wrapper


def thrice(function):
    @functools.wraps(function)
    def wrapper(x):
        return function(x) * 3
    return wrapper
""",
    "site-packages/fakepkg-1.0.dist-info/METADATA": "Name: fakepkg\nVersion: 1.0\nRequires-Dist: fakebase\n",
    "site-packages/fakebase/__init__.py": "",
    "site-packages/fakebase-1.0.dist-info/METADATA": "Name: fakebase\nVersion: 1.0\n",
    "site-packages/unrelated/__init__.py": "",
    "site-packages/unrelated-1.0.dist-info/METADATA": "Name: unrelated\nVersion: 1.0\n",
}


class Mutation:
    """One change: texts replaced in files (`edits`), files moved, variables set, another way to start."""

    def __init__(self, must, name, *edits, env=None, moved=None, then=None, rename=(), needs=()):
        self.must = must
        self.name = name
        self.edits = edits
        self.env = env or {}
        # The directory that the copy is run in, when it is another one.
        self.moved = moved
        # What is done in the copy beside the edits.
        self.then = then
        self.rename = rename
        self.needs = needs


def edit(file, old, new):
    return (file, old, new)


def main(old, new):
    return edit("main.py", old, new)


def _touch(root):
    os.utime(os.path.join(root, "data", "rows.csv"), (1_000_000_000, 1_000_000_000))


def _same_size_same_time(root):
    """Another content of the same length, with the times put back."""
    path = os.path.join(root, "data", "rows.csv")
    before = os.stat(path)
    with open(path, "w") as file:
        file.write("1,2\n3,5")
        file.write("")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _compiled(root):
    subprocess.run([sys.executable, "-m", "compileall", "-q", root], check=True)


MUTATIONS = [
    Mutation("hit", "nothing"),
    # What the function itself does.
    Mutation("miss", "the function's body", main("total = 0\n", "total = 1\n")),
    Mutation("miss", "a comparison in a branch not taken", main("total > 10**9", "total >= 10**9")),
    Mutation("miss", "a text in a branch not taken", main('"nothing" in', '"something" in')),
    # What it calls.
    Mutation("miss", "a helper, imported by name", edit("helpers.py", "_deep(x) * 2", "_deep(x) * 3")),
    Mutation("miss", "two calls deep", edit("helpers.py", "_deeper(x) + 1", "_deeper(x) + 2")),
    Mutation("miss", "three calls deep", edit("helpers.py", "math.floor(x)", "math.ceil(x)")),
    Mutation("miss", "a helper, through its module", edit("helpers.py", "x + 100", "x + 101")),
    Mutation(
        "miss",
        "a function in a list of another module",
        edit("helpers.py", "return x * 2\n\n\nSTEPS", "return x * 4\n\n\nSTEPS"),
    ),
    Mutation("miss", "the order of a list of functions", edit("helpers.py", "[first, second]", "[second, first]")),
    Mutation("miss", "a function of a package's module", edit("parsers/text.py", "len(text)", "len(text) + 1")),
    Mutation("miss", "a function imported in the body", edit("late.py", "x + 1", "x + 2")),
    Mutation("miss", "one of two functions that call each other", main("n != 0 and", "n > 0 and")),
    Mutation("miss", "a function under lru_cache", main("return x * 3", "return x * 4")),
    Mutation("miss", "a lambda", main("lambda x: x * 2", "lambda x: x * 3")),
    Mutation("miss", "a lambda in a dict", main("lambda x: x + 1", "lambda x: x + 2")),
    Mutation("miss", "what a partial has bound", main("partial(pow, 2)", "partial(pow, 3)")),
    Mutation("miss", "what a partial calls", main("partial(pow, 2)", "partial(max, 2)")),
    Mutation("miss", "a decorator of a helper", main("function(*args) + 1", "function(*args) + 2")),
    Mutation("miss", "a decorator taken off", main("@noisy\n", "")),
    Mutation(
        "miss",
        "a function below a decorator",
        main("def decorated(x):\n    return x", "def decorated(x):\n    return -x"),
    ),
    Mutation("miss", "another decorator of a package", main("@fakepkg.twice", "@fakepkg.thrice")),
    Mutation(
        "miss",
        "a function below a package's decorator",
        main("def wrapped(x):\n    return x", "def wrapped(x):\n    return -x"),
    ),
    Mutation("miss", "what a context manager reads", main("MANAGED = 6", "MANAGED = 7")),
    Mutation("miss", "the argument of a decorator", main("@times(5)", "@times(6)")),
    Mutation("miss", "the code of a decorator with arguments", main("function(x) * factor", "function(x) + factor")),
    Mutation("miss", "a module imported by its name as a text", edit("plugins/one.py", "x + 8", "x + 80")),
    Mutation("miss", "a module imported where another is missing", edit("late2.py", "x + 7", "x + 70")),
    Mutation(
        "miss",
        "a function found in globals()",
        edit("models.py", "def _named(x):\n    return x", "def _named(x):\n    return -x"),
    ),
    # What it reads.
    Mutation("miss", "a global that a generator reads", main("SHIFT = 2", "SHIFT = 20")),
    Mutation("miss", "a global that a class in a function reads", main("INNER = 3", "INNER = 30")),
    Mutation("miss", "the value of a closure", main("make(2)", "make(3)")),
    Mutation("miss", "the code around a closure's value", main("x**power", "x*power")),
    Mutation("miss", "a default", main("y=1", "y=2")),
    Mutation("miss", "a keyword's default", main("factor=3", "factor=4")),
    Mutation("miss", "a mutable default", main("seen=[1, 2]", "seen=[1, 2, 3]")),
    Mutation("miss", "a default of the function itself", main("seed=0", "seed=1")),
    Mutation("miss", "a global", main("LIMIT = 10", "LIMIT = 11")),
    Mutation("miss", "a global's type", main("LIMIT = 10", "LIMIT = 10.0")),
    Mutation("miss", "a global, assigned later", main("\n\ndef arguments", "\n\nLIMIT = 12\n\n\ndef arguments")),
    Mutation("miss", "deep in a global dict", main('"b": [2, 3]', '"b": [2, 4]')),
    Mutation("miss", "a constant of a module", edit("helpers.py", "RATE = 0.5", "RATE = 0.75")),
    Mutation("miss", "a constant of a star import", edit("constants.py", "STAR = 4", "STAR = 5")),
    Mutation("miss", "an object in a module", edit("settings.py", "Settings(0.25)", "Settings(0.5)")),
    Mutation(
        "miss",
        "a module's constant, changed at run time",
        main('    print("VALUE"', '    helpers.RATE = 9\n    print("VALUE"'),
    ),
    # Classes.
    Mutation("miss", "a method of an argument's class", edit("models.py", "* self.factor", "* self.factor * 1")),
    Mutation("miss", "a method of its base class", edit("models.py", "x + self.bias", "x - self.bias")),
    Mutation("miss", "an attribute of its base class", edit("models.py", "bias = 1", "bias = 2")),
    Mutation("miss", "an attribute of the class", edit("models.py", "scale = 2", "scale = 3")),
    Mutation("miss", "a property", edit("models.py", "return 3", "return 4")),
    Mutation("miss", "a class method", edit("models.py", "cls(size + cls", "cls(size - cls")),
    Mutation("miss", "a static method", edit("models.py", "return 0", "return 1")),
    Mutation("miss", "a member of an enum", edit("models.py", "RED = 1", "RED = 3")),
    Mutation("miss", "a field's default in a dataclass", edit("models.py", "y: int = 5", "y: int = 6")),
    Mutation("miss", "a default of a named tuple", edit("models.py", "defaults=[2]", "defaults=[3]")),
    Mutation("miss", "the order of base classes", edit("models.py", "Mixed(Left, Right)", "Mixed(Right, Left)")),
    Mutation("miss", "a descriptor", edit("models.py", "return 4", "return 40")),
    Mutation("miss", "a metaclass", edit("models.py", "return 5", "return 50")),
    Mutation("miss", "a decorator of a class", edit("models.py", "[self.n, self.n]", "[self.n] * 3")),
    # Arguments.
    Mutation("miss", "a number in a list", main("[1, 2.5, 3]", "[1, 2.5, 4]")),
    Mutation("miss", "a number's type", main("[1, 2.5, 3]", "[1.0, 2.5, 3]")),
    Mutation("miss", "True for 1", main('{"a": 1,', '{"a": True,')),
    Mutation("miss", "a list for a tuple", main("(2, None)", "[2, None]")),
    Mutation("miss", "bytes for a text", main('"z"}', 'b"z"}')),
    Mutation("miss", "a zero's sign", main("ZERO = 0.0", "ZERO = -0.0")),
    Mutation("miss", "the state of an object", main("models.Model(3)", "models.Model(4)")),
    Mutation(
        "miss", "the class of an object", main("models.Model(3)", 'type("Model", (models.Model,), {"more": 1})(3)')
    ),
    Mutation("miss", "the seed", main('"z"},\n', '"z"},\n        seed=2,\n')),
    # Files, packages, the environment.
    Mutation("miss", "the data file behind the same path", edit("data/rows.csv", "3,4", "3,40")),
    Mutation("miss", "the data file, same length, same time", then=_same_size_same_time),
    Mutation("miss", "the version of a package", rename=[("fakepkg-1.0.dist-info", "fakepkg-1.1.dist-info")]),
    Mutation(
        "miss", "the version of what a package requires", rename=[("fakebase-1.0.dist-info", "fakebase-2.0.dist-info")]
    ),
    Mutation("miss", "a declared variable of the environment", env={"FACTOR": "2"}),
    Mutation("miss", "Python's minor version", env={"MUTATION_PYTHON": "cpython 3.99"}, needs=("python",)),
    Mutation(
        "miss",
        "version= of the decorator",
        main('depends_on=["FACTOR"]', 'depends_on=["FACTOR"], version=2'),
        needs=("version",),
    ),
    # What must not count.
    Mutation(
        "hit",
        "a comment",
        main("    total = sum(", "    # Begins here.\n    total = sum("),
        edit("helpers.py", "RATE =", "# Rate.\nRATE ="),
    ),
    Mutation(
        "hit",
        "a docstring",
        main('"""Adds it all up."""', '"""Adds up, in a long\n    text.\n    """'),
        edit("helpers.py", "def offset(x):\n", 'def offset(x):\n    """Adds."""\n'),
    ),
    Mutation(
        "hit",
        "formatting",
        main(
            '    if total > 10**9 or "nothing" in options:\n        total = 0\n',
            "    if (\n        total > 10 ** 9\n        or 'nothing' in options\n    ): total = 0\n",
        ),
        main("n == 0 or odd(n - 1)", "(\n        n == 0\n        or odd(n - 1)\n    )"),
    ),
    Mutation(
        "hit",
        "blank lines",
        main("\n\ndef even", "\n\n\n\n\n\ndef even"),
        edit("models.py", "class Base:", "\n\nclass Base:"),
    ),
    Mutation(
        "hit",
        "the order of functions in a file",
        edit("helpers.py", "def offset(x):\n    return x + 100\n\n\n", ""),
        edit("helpers.py", "import math\n", "import math\n\n\ndef offset(x):\n    return x + 100\n"),
    ),
    Mutation(
        "hit",
        "type hints",
        main("def defaulted(x, y=1):", "def defaulted(x: int, y: int=1) -> int:"),
        edit("helpers.py", "def offset(x):", "def offset(x: float) -> float:"),
    ),
    Mutation(
        "hit",
        "a function that is not reached",
        edit("helpers.py", "x - 1", "x - 2"),
        edit("late.py", "return x\n", "return -x\n"),
    ),
    Mutation(
        "hit",
        "a constant that is not reached",
        main("UNUSED = 1", "UNUSED = 2"),
        edit("helpers.py", "UNUSED = 7", "UNUSED = 8"),
        edit("constants.py", "OTHER = 5", "OTHER = 6"),
    ),
    Mutation("hit", "a class that is not reached", edit("other_models.py", "    x = 1", "    x = 2")),
    Mutation(
        "hit",
        "a module that is not reached",
        edit("parsers/other.py", "X = 1", "X = 2"),
        edit("plugins/two.py", "x + 9", "x - 9"),
    ),
    Mutation(
        "hit",
        "the version of a package that is not reached",
        rename=[("unrelated-1.0.dist-info", "unrelated-2.0.dist-info")],
    ),
    Mutation("hit", "another checkout", moved="elsewhere/deep/checkout"),
    Mutation(
        "hit",
        "another user, another node",
        env={"HOME": "/nowhere", "USER": "eve", "LOGNAME": "eve", "FNODE_NODE": "n2", "HOSTNAME": "h2"},
    ),
    Mutation("hit", "another variable of the environment", env={"SOMETHING": "else", "LANG": "C", "TZ": "Asia/Tokyo"}),
    Mutation(
        "hit",
        "a dict in another order",
        main('{"a": 1, "b": (2, None)}', '{"b": (2, None), "a": 1}'),
        main('TABLE = {"a": 1, "b": [2, 3]}', 'TABLE = {"b": [2, 3], "a": 1}'),
    ),
    Mutation("hit", "a set in another order", main('{"x", "y", "z"}', 'set(["z", "x", "y"])')),
    Mutation(
        "hit",
        "keywords in another order",
        main("        rows=[1, 2.5, 3],\n", ""),
        main('"z"},\n', '"z"},\n        rows=[1, 2.5, 3],\n'),
    ),
    Mutation("hit", "a default that is given", main('"z"},\n', '"z"},\n        seed=0,\n        extra=None,\n')),
    Mutation("hit", "the data file's times", then=_touch),
    Mutation(
        "hit",
        "the data file in another directory",
        main('"data/rows.csv"', '"rows.csv"'),
        then=lambda root: shutil.copy(os.path.join(root, "data/rows.csv"), os.path.join(root, "rows.csv")),
    ),
    Mutation("hit", "a path that is absolute", main('Path("data/rows.csv")', 'ROOT / "data/rows.csv"')),
    Mutation(
        "hit",
        "modules imported again",
        main(
            '    print("VALUE"',
            '    importlib.reload(models), importlib.reload(helpers)\n    from helpers import scaled\n    print("VALUE"',
        ),
    ),
    Mutation("hit", "compiled files", then=_compiled),
    Mutation(
        "hit",
        "an equal value, made another way",
        main("LIMIT = 10", "LIMIT = 2 * 5"),
        main("[1, 2.5, 3]", "[1, 5 / 2] + [3]"),
    ),
]

# The same with arrays, where numpy is installed.
ARRAYS = {
    "main.py": """\
import numpy as np
from tool import cached, call

WEIGHTS = np.arange(12.0).reshape(3, 4)


@cached()
def work(a, b):
    print("RAN")
    return float((a * WEIGHTS).sum() + b.sum())


def arguments():
    return dict(a=np.arange(12.0).reshape(3, 4), b=np.arange(300_000, dtype="f4").reshape(500, 600))


if __name__ == "__main__":
    print("VALUE", call(work, arguments()))
""",
}
ARRAY_MUTATIONS = [
    Mutation("hit", "nothing (arrays)"),
    Mutation(
        "miss",
        "an element of an array",
        main('dtype="f4").reshape(500, 600)', 'dtype="f4").reshape(500, 600) + np.eye(500, 600, dtype="f4")'),
    ),
    Mutation("miss", "an array's type", main('dtype="f4"', 'dtype="f8"')),
    Mutation("miss", "an array's shape", main("reshape(500, 600)", "reshape(600, 500)")),
    Mutation(
        "miss",
        "a global array",
        main("WEIGHTS = np.arange(12.0).reshape(3, 4)", "WEIGHTS = np.arange(12.0).reshape(3, 4)\nWEIGHTS[2, 3] = 0"),
    ),
    Mutation("miss", "a zero's sign", main("a=np.arange(12.0)", "a=np.array([-0.0] + list(range(1, 12)))")),
    Mutation(
        "hit", "an array in Fortran order", main("reshape(500, 600))", "reshape(500, 600, order='C').copy(order='F'))")
    ),
    Mutation(
        "hit",
        "a view with steps",
        main(
            "a=np.arange(12.0).reshape(3, 4)",
            "a=np.arange(24.0).repeat(2).reshape(3, 4, 4)[..., ::4][..., 0] * 0 + np.arange(12.0).reshape(3, 4)[::-1][::-1]",
        ),
    ),
    Mutation(
        "hit",
        "an array in a mapped file",
        main(
            "    return dict(a=np.arange(12.0).reshape(3, 4)",
            '    np.save("a.npy", np.arange(12.0).reshape(3, 4))\n    return dict(a=np.load("a.npy", mmap_mode="r")',
        ),
    ),
    Mutation(
        "hit",
        "a global array in Fortran order",
        main("WEIGHTS = np.arange(12.0).reshape(3, 4)", "WEIGHTS = np.asfortranarray(np.arange(12.0).reshape(3, 4))"),
    ),
]

# What `tool.py` is for this package; the other tools' are in benches/cache_mutations.py.
TOOL = """\
import os
import foundations
from foundations._cache import key

if "MUTATION_PYTHON" in os.environ:
    key._PYTHON = os.environ["MUTATION_PYTHON"]

cached = foundations.cache


def call(function, arguments):
    return function(**arguments)
"""


class Table:
    """Runs mutations of one project with one tool, below a directory of its own.

    `in_place`: all in the same directory, one after the other, as a user edits; else each in a checkout of its own.
    """

    def __init__(self, root, project, tool=TOOL, in_place=False):
        self.root = root
        self.project = dict(project, **{"tool.py": tool})
        self._in_place = in_place
        self.command = [sys.executable, "main.py"]
        self._numbers = itertools.count(1)
        self.home = os.path.join(root, "home")

    def first(self):
        """Fills the cache; the run must compute. Returns the value that it printed."""
        ran, value = self._run(Mutation("miss", "first"))
        if not ran:
            raise AssertionError("the first run of all has found something")
        return value

    def computes(self, mutation):
        """Whether the changed project computes; for `hit`, the value must be the first run's in any case."""
        return self._run(mutation)[0]

    def values(self, lines):
        """What a run printed as its result."""
        return [line[len("VALUE ") :] for line in lines if line.startswith("VALUE ")]

    def prepare(self, place, environment):
        """What a tool needs before the run; nothing for most."""

    def _run(self, mutation):
        number = next(self._numbers)
        run = "run" if self._in_place else "run-{}".format(number)
        place = os.path.join(self.root, run, mutation.moved or "project")
        shutil.rmtree(place, ignore_errors=True)
        self._write(place, mutation)
        environment = dict(
            {key: value for key, value in os.environ.items() if not key.startswith(("FNODE_", "FOUNDATIONS_"))},
            PYTHONPATH=os.pathsep.join((os.path.join(place, "site-packages"), SDK)),
            FNODE_HOME=self.home,
            FOUNDATIONS_COMMAND_LINE="True",
            TOOL_CACHE=os.path.join(self.root, "tool-cache"),
            PYTHONHASHSEED=str(number),
            PYTHONDONTWRITEBYTECODE="1",
        )
        environment.pop("FACTOR", None)
        environment.update(mutation.env)
        self.prepare(place, environment)
        done = subprocess.run(
            self.command,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=TIMEOUT_S,
        )
        lines = done.stdout.splitlines()
        values = self.values(lines)
        if done.returncode != 0 or len(values) != 1 or "computed without the cache" in done.stdout:
            raise AssertionError("{}: {}\n{}".format(mutation.name, done.stdout, done.stderr))
        return "RAN" in lines, values[0]

    def _write(self, place, mutation):
        texts = dict(self.project)
        for file, old, new in mutation.edits:
            if old not in texts[file]:
                raise AssertionError("{}: {!r} is not in {}".format(mutation.name, old, file))
            texts[file] = texts[file].replace(old, new, 1)
        for name, text in texts.items():
            for old, new in mutation.rename:
                name = name.replace(old, new)
            path = os.path.join(place, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        if mutation.then is not None:
            mutation.then(place)
