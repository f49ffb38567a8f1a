"""Keys while a process runs: every change of what a function reaches is seen, and undoing it gives the key back."""

import collections
import enum
import functools
import os
import pathlib
import pickle
import sys
import types
import unittest

import support

import foundations
from foundations._cache import bytecode
from foundations._cache.key import Keys
from foundations._cache.walk import Unhashable, Walk

try:
    import numpy
except ImportError:
    numpy = None
try:
    import pandas
except ImportError:
    pandas = None
try:
    import polars
except ImportError:
    polars = None

helpers = types.ModuleType("project_helpers")
exec("RATE = 1\ndef scale(x):\n    return RATE * deep(x)\ndef deep(x):\n    return x\n", vars(helpers))
sys.modules["project_helpers"] = helpers


class Slots:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


class Plain:
    rate = 1

    def __init__(self, a):
        self.a = a

    def method(self, x):
        return x

    @functools.cached_property
    def derived(self):
        return 2


class Other(Plain):
    pass


class Colour(enum.Enum):
    RED = 1


LIMIT = 1000
NESTED = {"a": [1, {"b": {2, 3}}]}
SLOTS = Slots([1])
PLAIN = Plain([1])
STEPS = [lambda x: x]
BUFFER = bytearray(b"abc")
ARRAY = None if numpy is None else numpy.arange(6.0)
FRAME = None if pandas is None else pandas.DataFrame({"a": [1, 2], "b": ["x", None]})
PATH = pathlib.Path("data.txt")
HERE = pathlib.Path(".")
AROUND = pathlib.Path(__file__).parent


def with_default(x, y=1, *, z=2):
    return x + y + z


def make(value):
    def change(new):
        nonlocal value
        value = new

    def read(x):
        return value + x

    return read, change


read_cell, change_cell = make(1)


@functools.singledispatch
def dispatch(x):
    return x


def work(x):
    total = LIMIT + helpers.scale(x) + read_cell(x) + with_default(x) + dispatch(x) + Colour.RED.value
    later = undefined_name if x else None  # noqa: F821
    return total, NESTED, SLOTS, PLAIN.method(x), STEPS, BUFFER, ARRAY, FRAME, PATH, later, len([x])


def replaced(x):
    return -x


class AtRunTime(support.Case):
    def setUp(self):
        super().setUp()
        self.write("data.txt", "1")
        self.keys = Keys(work, None, (), (), ())

    def key(self):
        return self.keys.of((1,), {}).hex

    def check(self, do, undo):
        """`do` must change the key, whether or not it was made before; `undo` must give it back."""
        before = self.key()
        self.assertEqual(self.key(), before)
        do()
        try:
            changed = self.key()
            self.assertEqual(changed, Keys(work, None, (), (), ()).of((1,), {}).hex)
        finally:
            undo()
        self.assertNotEqual(changed, before)
        self.assertEqual(self.key(), before)

    def check_attribute(self, owner, name, value):
        missing = object()
        before = vars(owner).get(name, missing)
        self.check(
            lambda: setattr(owner, name, value),
            lambda: delattr(owner, name) if before is missing else setattr(owner, name, before),
        )

    def test_globals_and_names_that_appear(self):
        here = sys.modules[__name__]
        self.check_attribute(here, "LIMIT", 1001)
        self.check_attribute(here, "undefined_name", 3)
        self.check_attribute(here, "len", lambda x: 1)
        self.check_attribute(here, "with_default", replaced)

    def test_what_was_edited_is_what_differs_and_not_what_calls_it(self):
        def differ(owner, name, value):
            then, before = set(self.keys.of((1,), {}).parts()), vars(owner).get(name, getattr(owner, name))
            setattr(owner, name, value)
            try:
                now = set(self.keys.of((1,), {}).parts())
            finally:
                setattr(owner, name, before)
            return {(kind, label.rpartition(".")[2]) for kind, label, _ in then ^ now}

        self.assertEqual(differ(with_default, "__defaults__", (5,)), {("function", "with_default")})
        self.assertEqual(differ(with_default, "__kwdefaults__", {"z": 5}), {("function", "with_default")})
        # An object of the class is another value, too.
        self.assertEqual(differ(Plain, "rate", 2), {("class", "Plain"), ("global", "PLAIN")})
        self.assertEqual(differ(sys.modules[__name__], "LIMIT", 1001), {("global", "LIMIT")})

    def test_modules_and_what_their_functions_reach(self):
        self.check_attribute(helpers, "RATE", 2)
        self.check_attribute(helpers, "scale", replaced)
        self.check_attribute(helpers, "deep", replaced)

    def test_inside_of_containers_and_objects(self):
        inner = NESTED["a"][1]["b"]
        self.check(lambda: inner.add(4), lambda: inner.discard(4))
        self.check(lambda: NESTED["a"].append(4), lambda: NESTED["a"].pop())
        self.check(lambda: NESTED.update(c=1), lambda: NESTED.pop("c"))
        self.check(lambda: SLOTS.a.append(2), lambda: SLOTS.a.pop())
        self.check(lambda: PLAIN.a.append(2), lambda: PLAIN.a.pop())
        self.check(lambda: STEPS.append(replaced), lambda: STEPS.pop())
        self.check(lambda: BUFFER.__setitem__(0, 1), lambda: BUFFER.__setitem__(0, ord("a")))
        self.check_attribute(PLAIN, "b", 1)
        own = PLAIN.__dict__
        self.check(lambda: setattr(PLAIN, "__dict__", {"a": [2]}), lambda: setattr(PLAIN, "__dict__", own))
        self.check(lambda: setattr(PLAIN, "__class__", Other), lambda: setattr(PLAIN, "__class__", Plain))

    def test_classes(self):
        self.check_attribute(Plain, "rate", 2)
        self.check_attribute(Plain, "method", replaced)
        self.check_attribute(Plain, "more", 1)

    def test_functions(self):
        self.check(lambda: change_cell(2), lambda: change_cell(1))
        self.check_attribute(with_default, "mode", "fast")
        for name, value in (("__defaults__", (5,)), ("__kwdefaults__", {"z": 5}), ("__code__", replaced.__code__)):
            before = getattr(with_default, name)
            self.check(lambda: setattr(with_default, name, value), lambda: setattr(with_default, name, before))
        self.check(lambda: with_default.__kwdefaults__.update(z=3), lambda: with_default.__kwdefaults__.update(z=2))

    def test_a_registered_implementation(self):
        before = self.key()
        dispatch.register(bytes, replaced)
        self.assertNotEqual(self.key(), before)

    def test_files_behind_global_paths(self):
        self.check(lambda: self.write("data.txt", "2"), lambda: self.write("data.txt", "1"))
        self.check(lambda: os.unlink("data.txt"), lambda: self.write("data.txt", "1"))

    @unittest.skipUnless(numpy, "numpy is not installed: no global array was changed")
    def test_an_element_of_a_global_array(self):
        self.check(lambda: ARRAY.__setitem__(2, 7), lambda: ARRAY.__setitem__(2, 2))

    @unittest.skipUnless(pandas, "pandas is not installed: no global table was changed")
    def test_an_element_of_a_global_table(self):
        def put(value):
            FRAME.loc[0, "b"] = value

        self.check(lambda: put("y"), lambda: put("x"))
        self.check(lambda: FRAME.attrs.update(a=1), lambda: FRAME.attrs.clear())

    def test_what_is_derived_does_not_count(self):
        before = self.key()
        self.assertEqual(PLAIN.derived, 2)
        self.assertEqual(self.key(), before)


def digest(value):
    return Walk().digest(value, "value")


class Values(support.Case):
    def check_distinct(self, values):
        found = collections.defaultdict(list)
        for value in values:
            found[digest(value)].append(value)
        self.assertEqual([same for same in found.values() if len(same) > 1], [])

    def test_types_and_values_that_differ(self):
        self.check_distinct(
            [0, False, 0.0, -0.0, 0j, "0", b"0", None, (), [], {}, set(), frozenset(), "", b"", bytearray(), range(0)]
            + [1, True, 1.0, "1", b"1", (1,), [1], {1}, {1: None}, frozenset((1,)), [[1]], [1, 1], [(1,)], "a", ["a"]]
            + [
                float("nan"),
                float("inf"),
                10**30,
                10**30 + 1,
                -1,
                "\ud800",
                {"a": 1},
                {"a": True},
                {b"a": 1},
                {(1,): 1},
            ]
            + [
                {(1,): 2},
                {1: 2, 3: 4},
                {1: 4, 3: 2},
                [1, [2, 3]],
                [[1, 2], 3],
                slice(1),
                slice(0, 1),
                Plain(1),
                Other(1),
            ]
            + [
                Plain(2),
                Slots(1),
                Colour.RED,
                Colour,
                int,
                len,
                max,
                Plain,
                replaced,
                lambda x: x,
                lambda y: x,
                os.path,
            ]
            + [
                collections.OrderedDict(a=1, b=2),
                collections.OrderedDict(b=2, a=1),
                collections.Counter("a"),
                1e300 * 10,
            ]
            + [list(range(5000)), list(range(5001)), [float(x) for x in range(5000)], ["a" * 5000], ["a" * 5001]]
        )

    def test_order_sharing_and_circles(self):
        shared = [1]
        first, second = [], [[]]
        first.append(first)
        second[0].append(second)
        pairs = [
            ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
            ({(1, 2): 3, (3,): 4}, {(3,): 4, (1, 2): 3}),
            ({"x", "y", 3}, {3, "y", "x"}),
            ([shared, shared], [[1], [1]]),
            (first, second),
            (float("nan"), -float("nan")),
        ]
        for one, other in pairs:
            self.assertEqual(digest(one), digest(other), one)
        deep = []
        for _ in range(50_000):
            deep = [deep]
        doubled = [1]
        for _ in range(80):
            doubled = [doubled, doubled]
        self.assertNotEqual(digest(deep), digest(doubled))
        third = []
        third.append([third, 1])
        self.assertNotEqual(digest(first), digest(third))

    def test_a_long_chain_that_can_be_walked_both_ways(self):
        def chain(length, last):
            nodes = [Plain(None) for _ in range(length)]
            for before, after in zip(nodes, nodes[1:]):
                before.next, after.before = after, before
            nodes[-1].a = last
            return nodes[0]

        self.assertEqual(digest(chain(2000, 1)), digest(chain(2000, 1)))
        self.check_distinct([chain(2000, 1), chain(2000, 2), chain(2001, 1), chain(20, 1), chain(20, 2)])

    def test_files_count_by_name_and_content_and_directories_by_what_is_in_them(self):
        for name in ("one/a/x.txt", "two/a/x.txt", "two/a/y.txt"):
            self.write(name, "content")
        path = pathlib.Path
        self.assertEqual(digest(path("one/a/x.txt")), digest(path(self.dir) / "two/a/x.txt"))
        self.assertNotEqual(digest(path("two/a/x.txt")), digest(path("two/a/y.txt")))
        self.assertNotEqual(digest(path("one/a")), digest(path("two/a")))
        os.unlink("two/a/y.txt")
        self.assertEqual(digest(path("one/a")), digest(foundations.Directory("two/a")))
        os.mkdir("two/a/empty")
        self.assertNotEqual(digest(path("one/a")), digest(path("two/a")))
        self.assertNotEqual(digest(path("nothing")), digest(path("nobody")))
        with open("one/a/x.txt") as text, open("one/a/x.txt", "rb") as data:
            self.check_distinct([text, data, foundations.File("one/a/x.txt")])
            before = digest(data)
            data.read(2)
            self.assertNotEqual(digest(data), before)
        with open("one/a/x.txt", "w") as written, self.assertRaisesRegex(Unhashable, "is written to"):
            digest(written)

    def test_the_working_directory_counts_as_an_argument_and_is_a_place_as_a_global(self):
        self.write("x.txt", "1")
        here, around = Keys(lambda: HERE, None, (), (), ()), Keys(lambda: AROUND, None, (), (), ())
        before = digest(pathlib.Path(".")), here.of((), {}).hex
        began = around.of((), {}).hex
        self.write("x.txt", "2")
        self.write("__pycache__/y.pyc", "")
        after = digest(pathlib.Path(".")), here.of((), {}).hex
        self.assertNotEqual(before[0], after[0])
        self.assertEqual((before[1], began), (after[1], around.of((), {}).hex))

    def test_a_file_that_changed_within_its_clock_s_tick_is_read_again(self):
        name = self.write("x.txt", "1")
        times = os.stat(name).st_mtime_ns
        seen = set()
        for content in "1234":
            with open(name, "w") as file:
                file.write(content)
            os.utime(name, ns=(times, times))
            seen.add(digest(pathlib.Path(name)))
        self.assertEqual(len(seen), 4)

    @unittest.skipUnless(numpy, "numpy is not installed: arrays were not compared")
    def test_arrays_count_by_type_shape_and_elements(self):
        large = numpy.arange(3_000_000.0).reshape(1000, 3000)
        same = [large, numpy.asfortranarray(large), large[::-1][::-1], numpy.stack([large, large], 2)[:, :, 1]]
        self.assertEqual(len(set(map(digest, same))), 1)
        record = numpy.zeros(3, dtype=numpy.dtype({"names": ["a", "b"], "formats": ["i1", "f8"]}, align=True))
        padded = record.copy()
        padded.view("u1")[1] = 9
        self.assertEqual(digest(record), digest(padded))
        ones = numpy.ones(4)
        self.check_distinct(
            [
                ones,
                ones.reshape(2, 2),
                ones.astype("f4"),
                ones.astype(">f8"),
                ones.astype("i8"),
                ones.tolist(),
                ones[:3],
            ]
            + [numpy.float64(1), numpy.float32(1), numpy.int64(1), 1.0, numpy.array(1.0), numpy.array([]), record]
            + [numpy.array(["a", None], dtype=object), numpy.array(["a", "b"]), numpy.array(["2020"], dtype="M8[D]")]
            + [
                numpy.ma.masked_array([1.0, 2.0], [True, False]),
                numpy.array([1.0, 2.0]),
                numpy.dtype("f4"),
                numpy.dtype("f8"),
            ]
        )

    @unittest.skipUnless(pandas, "pandas is not installed: tables were not compared")
    def test_tables_count_by_columns_however_they_lie(self):
        table = pandas.DataFrame({"a": [1, 2], "b": [1.5, None], "c": ["x", None], "d": pandas.Categorical(["u", "v"])})
        again = pandas.DataFrame({"a": [1, 2]})
        for name in "bcd":
            again[name] = table[name].copy()
        self.assertEqual(digest(table), digest(again))
        self.check_distinct(
            [table, table[["a"]], table["a"], table.rename(columns={"a": "z"}), table[["b", "a", "c", "d"]]]
            + [table.astype({"a": "f8"}), table.set_index("a"), table.iloc[::-1], table.assign(c=["x", "y"])]
            + [table.assign(d=pandas.Categorical(["u", "v"], ["v", "u"]))]
        )

    @unittest.skipUnless(pandas, "pandas is not installed: columns of many kinds were not compared")
    def test_columns_and_arrays_of_many_kinds_have_the_digest_of_their_copies(self):
        days = pandas.to_datetime(["2020-01-01", "2021-01-01"])
        columns = [
            days,
            days.tz_localize("UTC"),
            pandas.to_timedelta([1, 2], "s"),
            pandas.array([1, None], dtype="Int64"),
        ]
        columns += [pandas.period_range("2020", periods=2, freq="M"), pandas.interval_range(0, 2), [[1], {"a": 1}]]
        columns += [
            pandas.array(["a", "b"], dtype="string"),
            pandas.arrays.SparseArray([0, 1]),
            pandas.Categorical([1, 2]),
        ]
        values = [pandas.DataFrame({"t": column}) for column in columns]
        values += [
            pandas.DataFrame([[1, 2]], columns=["a", "a"]),
            pandas.DataFrame(),
            days,
            days[0],
            pandas.NaT,
            pandas.NA,
        ]
        values += [pandas.DataFrame([[1, 2]], columns=pandas.MultiIndex.from_tuples([("a", 1), ("a", 2)]))]
        values += [
            numpy.zeros(2, dtype="V4"),
            numpy.array([1 + 2j]),
            numpy.array([True]),
            numpy.array([1], dtype="m8[s]"),
        ]
        values += [numpy.random.default_rng(0), numpy.random.RandomState(0), numpy.array([{1}, None], dtype=object)]
        values += [
            numpy.zeros(2, dtype=[("a", [("b", "i4")])]),
            numpy.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        ]
        values += [
            numpy.broadcast_to(numpy.arange(3), (4, 3)),
            numpy.zeros((0, 3)),
            numpy.array(3),
            numpy.matrix([[1]]),
        ]
        self.check_distinct(values)
        for value in values:
            self.assertEqual(digest(value), digest(pickle.loads(pickle.dumps(value))), value)

    @unittest.skipUnless(polars, "polars is not installed: its tables were not compared")
    def test_tables_of_polars(self):
        table = polars.DataFrame({"a": [1, 2, 3], "b": ["x", None, "y"]})
        chunked = polars.concat([table[:1], table[1:]], rechunk=False)
        self.assertEqual(digest(table), digest(chunked))
        self.check_distinct(
            [table, table["a"], table["b"], table[:2], table.rename({"a": "z"}), table.cast({"a": float})]
        )


class Code(support.Case):
    def code_of(self, text):
        space = {}
        exec(compile(text, "<test>", "exec"), space)
        return space["f"].__code__

    def test_formatting_leaves_bytecode_alone_also_without_its_file(self):
        one = "def f(a, b, x):\n    'doc'\n    while True:\n        if a and b: pass\n        else: break\n    return [i for i in x if i]"
        other = "def f(a, b, x):\n  # c\n  while True:\n    if (a\n      and b):\n      pass\n    else:\n      break\n  return [\n i\n for i in x\n  if i\n  ]"
        self.assertEqual(bytecode.digest(self.code_of(one)), bytecode.digest(self.code_of(other)))
        changed = one.replace("a and b", "a or b")
        self.assertNotEqual(bytecode.digest(self.code_of(one)), bytecode.digest(self.code_of(changed)))

    def test_a_file_that_the_compiler_warns_of_is_quiet(self):
        self.write("warned.py", "import foundations\n@foundations.cache\ndef f(x):\n    return x, '\\d'\n")
        done = self.script(
            "import warned\nprint(warned.f(1))\n", python=("-W", "ignore"), FOUNDATIONS_COMMAND_LINE="True"
        )
        self.assertEqual((done.stdout, done.stderr), ("(1, '\\\\d')\n", ""))
        done = self.script(
            "import warned\nprint(warned.f(1))\n", python=("-W", "default"), FOUNDATIONS_COMMAND_LINE="True"
        )
        self.assertEqual(done.stderr.count("invalid escape sequence"), 1, done.stderr)

    def test_handlers_jumps_and_constants_count(self):
        base = "def f(x):\n    try:\n        y = x[0]\n        z = {1, 'a'}\n    except KeyError:\n        y = 2\n    return y, 1.0"
        found = {bytecode.digest(self.code_of(base))}
        for old, new in (
            ("KeyError", "IndexError"),
            ("1.0", "1"),
            ("1.0", "-0.0"),
            ("{1, 'a'}", "{1, 'b'}"),
            ("{1, 'a'}", "{True, 'a'}"),
        ):
            found.add(bytecode.digest(self.code_of(base.replace(old, new))))
        inside = "def f(x):\n    y = x[0]\n    try:\n        z = {1, 'a'}\n    except KeyError:\n        y = 2\n    return y, 1.0"
        found.add(bytecode.digest(self.code_of(inside)))
        self.assertEqual(len(found), 7)

    def key_of(self, text):
        module = types.ModuleType("small")
        exec(text, vars(module))
        return Keys(module.f, None, (), (), ()).of((), {}).hex

    def test_small_differences_of_code_count(self):
        for text in (
            "X = 1\ndef f(): return (lambda: X)()",
            "X = 1\ndef f(): return [X for _ in 'a']",
            "X = 1\ndef f(): return f'{X:>{X}}'",
            "X = 1\ndef f():\n  global Y\n  Y = X\n  return Y",
            "X = 1\ndef f(a=X): return a",
            "X = 1\nclass C:\n  def __call__(self): return X\nc = C()\ndef f(): return c()",
            "X = 1\nclass C:\n  def __init__(self): self.all = [lambda: X]\nc = C()\ndef f(): return c",
            "X = 1\nclass B:\n  m = X\nclass A(B):\n  def m(self): return super().m\ndef f(): return A().m()",
            "X = 1\ndef d(g):\n  g.n = X\n  return g\n@d\ndef g(): return g.n\ndef f(): return g()",
            "X = 1\nasync def g(): return X\ndef f(): return g()",
            "X = 1\nfrom functools import partial\nX = partial(max, X)\ndef f(): return X",
            "X = 1\nfrom operator import itemgetter\nget = itemgetter(X)\ndef f(): return get",
            "def f(x=3):\n  try:\n    return (x, 1)\n  finally:\n    print(x)",
        ):
            keys = {self.key_of(text.replace(" 1", new, 1)) for new in (" 1", " 2", " True", " 1.0")}
            self.assertEqual(len(keys), 4, text)

    def test_combined_instructions_of_newer_pythons_are_understood(self):
        def names(opname, argval):
            return bytecode._names(types.SimpleNamespace(opname=opname, argval=argval))

        self.assertEqual(names("LOAD_FAST", "a"), ("a",))
        self.assertEqual(names("LOAD_FAST_BORROW_LOAD_FAST_BORROW", ("a", "b")), ("a", "b"))
        self.assertEqual(names("STORE_FAST_LOAD_FAST", ("a", "b")), ("b",))
        self.assertEqual((names("STORE_FAST_STORE_FAST", ("a", "b")), names("STORE_FAST", "a")), ((), ()))
        self.assertEqual((names("LOAD_GLOBAL", "a"), names("LOAD_FROM_DICT_OR_DEREF", "a")), ((), ("a",)))

    def test_imports_in_a_body_are_followed_to_what_is_used(self):
        text = (
            "def f(x):\n    import a.b, os\n    import a.b as c\n    from . import helpers\n    from .deep import g as h, k\n"
            "    def inner():\n        return helpers.U + G.y\n    return a.b.f(x) + c.z + h(k) + os.path.join('a')\n"
        )
        read = bytecode.reads(self.code_of(text))
        self.assertEqual(read.names, {("G", "y")})
        expected = {
            ("", 1, ("helpers", "U")),
            ("a", 0, ("b", "f")),
            ("a.b", 0, ("z",)),
            ("deep", 1, ("g",)),
            ("deep", 1, ("k",)),
        }
        self.assertLessEqual(expected | {("os", 0, ("path", "join"))}, read.imports)


if __name__ == "__main__":
    unittest.main()
