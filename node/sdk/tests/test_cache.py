"""`foundations.cache`: what it keeps, what it finds, and what it does when something is wrong."""

import glob
import json
import os
import pickle
import sys
import threading
import time
import unittest

import support

import foundations
from foundations._cache import container, flight, store, verify

try:
    import numpy
except ImportError:
    numpy = None
try:
    import cloudpickle
except ImportError:
    cloudpickle = None


class Cached(support.Case):
    def setUp(self):
        super().setUp()
        self.ran = []

    def counted(self, result=None, **options):
        """A cached function that notes each time it runs. What it notes is no part of the key."""
        ran = Notes(self.ran)

        @foundations.cache(**options)
        def work(x, y=1):
            ran.add(x)
            return result(x) if callable(result) else (x, y)

        return work

    def records(self):
        return [path for path in glob.glob(self.path("home", ".fnode", "cache", "values", "*", "*")) if len(path) > 64]


class Notes:
    """Where a function notes that it ran; as part of a key it is always the same."""

    def __init__(self, target):
        self._target = target

    def add(self, note):
        self._target.append(note)

    def __reduce__(self):
        return (Notes, ((),))


def first_of_two(x):
    yield x


class Values(Cached):
    def test_a_result_is_computed_once(self):
        work = self.counted()
        self.assertEqual([work(1), work(1), work(x=1), work(1, y=1), work(2)], [(1, 1)] * 4 + [(2, 1)])
        self.assertEqual(self.ran, [1, 2])
        self.assertEqual((work.__name__, work.__wrapped__(5)), ("work", (5, 1)))

    def test_what_is_found_is_the_caller_s_own(self):
        work = self.counted(lambda x: [x])
        work(1)
        work(1).append(2)
        self.assertEqual(work(1), [1])

    @unittest.skipUnless(numpy, "numpy is not installed: no arrays were kept")
    def test_arrays_are_mapped_and_can_be_written_to(self):
        work = self.counted(lambda n: {"a": numpy.arange(n), "b": [numpy.ones((3, n)).T, numpy.array(["x", None])]})
        for n in (10, 100_000):
            first, second = work(n), work(n)
            self.assertTrue((second["a"] == first["a"]).all() and (second["b"][0] == first["b"][0]).all())
            second["a"][0] = 7
            self.assertEqual((work(n)["a"][0], second["a"].flags.writeable), (0, True))
        self.assertEqual(self.ran, [10, 100_000])
        (large,) = [path for path in self.records() if path.endswith(".value")]
        with open(large, "rb") as file:
            head = container.head_of(memoryview(file.read()))
        self.assertTrue(all(offset % 64 == 0 for offset, _ in head["buffers"]), head)
        self.assertEqual(sum(length for _, length in head["buffers"]), 100_000 * 8 * 4)

    def test_what_cannot_be_kept_is_said_once_and_the_call_goes_on(self):
        work = self.counted(first_of_two)
        with self.printed() as lines:
            self.assertEqual([list(work(1)), list(work(1))], [[1], [1]])
        self.assertEqual(len(lines), 1, lines)
        self.assertIn("work returned is not kept: it is a generator, which can be used once only", lines[0])
        lock = self.counted(lambda x: threading.Lock())
        with self.printed() as lines:
            lock(1)
        self.assertIn("it cannot be pickled (TypeError: cannot pickle '_thread.lock' object)", lines[0])
        self.assertEqual(self.records(), [])

    @unittest.skipUnless(cloudpickle, "cloudpickle is not installed: closures cannot be kept")
    def test_closures_are_kept_where_cloudpickle_is(self):
        work = self.counted(lambda x: lambda y: x + y)
        self.assertEqual([work(1)(2), work(1)(3), self.ran], [3, 4, [1]])

    def test_a_closure_without_cloudpickle_is_said(self):
        work = self.counted(lambda x: lambda: x)
        hidden = sys.modules.get("cloudpickle", self)
        sys.modules["cloudpickle"] = None
        try:
            with self.printed() as lines:
                self.assertEqual(work(1)(), 1)
        finally:
            del sys.modules["cloudpickle"]
            if hidden is not self:
                sys.modules["cloudpickle"] = hidden
        self.assertIn("cloudpickle, which might, is not installed", lines[0])

    def test_exceptions_are_kept_only_when_asked_for(self):
        def fail(x):
            raise KeyError(x)

        for options, runs in (({}, 2), ({"cache_exceptions": True}, 1), ({"cache_exceptions": (ValueError,)}, 2)):
            self.ran.clear()
            work = self.counted(fail, version=str(options), **options)
            for _ in range(2):
                with self.assertRaisesRegex(KeyError, "3"):
                    work(3)
            self.assertEqual(len(self.ran), runs, options)

    def test_an_exception_that_another_kept_is_computed_by_who_did_not_ask_for_it(self):
        def fail(x):
            raise KeyError(x)

        wanting, other = self.counted(fail, cache_exceptions=True), self.counted(fail)
        self.assertEqual(wanting.key(1), other.key(1))
        for work in (wanting, other, wanting):
            with self.assertRaises(KeyError):
                work(1)
        self.assertEqual(self.ran, [1, 1])

    def test_a_value_ends_with_its_time(self):
        work = self.counted(ttl=3600)
        work(1)
        work(1)
        self.assertEqual(self.ran, [1])
        (path,) = self.records()
        with open(path, "rb") as file:
            line, _, rest = file.read().partition(b"\n")
        record = json.loads(line)
        self.assertAlmostEqual(record["expires_unix_ms"] - record["made_unix_ms"], 3_600_000, delta=1)
        for change in ({"expires_unix_ms": 1}, {"made_unix_ms": 1, "expires_unix_ms": None}):
            with open(path, "wb") as file:
                file.write(json.dumps(dict(record, **change)).encode() + b"\n" + rest)
            work(1)
        self.assertEqual(self.ran, [1, 1, 1])

    def test_a_wrong_option_is_told_where_it_is_written(self):
        seconds, size = "seconds, a finite number above 0", "a whole number of bytes above 0"
        wrong = [
            (dict(ttl="1h"), TypeError, "ttl takes {}, not '1h'".format(seconds)),
            (dict(ttl=True), TypeError, "ttl takes {}, not True".format(seconds)),
            (dict(ttl=float("nan")), ValueError, "ttl takes {}, not nan".format(seconds)),
            (dict(ttl=float("inf")), ValueError, "ttl takes {}, not inf".format(seconds)),
            (dict(ttl=10**400), ValueError, "ttl takes {}, not 1000".format(seconds)),
            (dict(ttl=-1), ValueError, "ttl takes {}, not -1".format(seconds)),
            (dict(ttl=0), ValueError, "ttl takes {}, not 0".format(seconds)),
            (dict(max_bytes="1MB"), TypeError, "max_bytes takes {}, not '1MB'".format(size)),
            (dict(max_bytes=1.5), TypeError, "max_bytes takes {}, not 1.5".format(size)),
            (dict(max_bytes=-5), ValueError, "max_bytes takes {}, not -5".format(size)),
            (dict(cache_exceptions=5), TypeError, "cache_exceptions takes True, False or classes of exceptions, not 5"),
            (dict(cache_exceptions=[KeyError, "x"]), TypeError, "classes of exceptions, not 'x'"),
            (dict(depends_on=5), TypeError, "depends_on takes a list, not 5"),
            (dict(depends_on=["data/rows.csv"]), ValueError, "for files, modules, functions, classes and values, not"),
            (dict(ignore=[5]), TypeError, "ignore takes a list of names of arguments, not 5"),
            (dict(files=5), TypeError, "files takes a list of names of arguments, not 5"),
        ]
        for options, kind, text in wrong:
            with self.assertRaises(kind) as caught:
                foundations.cache(**options)
            self.assertTrue(str(caught.exception).startswith("foundations.cache: "), options)
            self.assertIn(text, str(caught.exception))

    def test_unusual_options_that_are_right_are_taken(self):
        for options in (
            dict(ttl=0.5, max_bytes=1 << 40),
            dict(ttl=1e300),
            dict(depends_on=[5, foundations.File, "HOME"], cache_exceptions=[KeyError]),
            dict(cache_exceptions=None, depends_on="HOME", ignore="x", files=["y"]),
        ):
            self.ran.clear()
            work = self.counted(version=str(options), **options)
            work(1), work(1)
            self.assertEqual(self.ran, [1], options)

    def test_too_large_values_are_not_kept(self):
        work = self.counted(lambda x: b"x" * x, max_bytes=1000)
        with self.printed() as lines:
            self.assertEqual([len(work(900)), len(work(900)), len(work(2000)), len(work(2000))], [900, 900, 2000, 2000])
        self.assertEqual(self.ran, [900, 2000, 2000])
        self.assertIn("more than the 1000 that are kept", lines[0])

    def test_any_damage_is_a_miss_and_is_mended(self):
        for size in (10, 200_000):
            work = self.counted(lambda x: [b"y" * x], version=size)
            expected = work(size)
            path = store.record_path(work.key(size))
            for name in glob.glob(path + "*"):
                with open(name, "rb") as file:
                    whole = file.read()
                damages = [
                    b"",
                    whole[:7],
                    whole[: len(whole) // 2],
                    b"{}\n",
                    b"null\n" + whole,
                    whole[:-1],
                    b"\0" * len(whole),
                ]
                damages.append(whole[:-3] + b"zzz")
                for damage in damages:
                    before = len(self.ran)
                    self.await_another_time(name)
                    with open(name, "wb") as file:
                        file.write(damage)
                    self.assertEqual(work(size), expected)
                    self.assertEqual(len(self.ran), before + 1, (name, damage[:20]))
                    self.assertEqual(work(size), expected)
                    self.assertEqual(len(self.ran), before + 1)
            os.unlink(sorted(glob.glob(path + "*"))[-1])
            work(size)
            self.assertEqual(work(size), expected)

    def await_another_time(self, path):
        """Systems date files by their clock's ticks: what is written from now on is dated otherwise than this file."""
        other = self.path("clock")
        while True:
            with open(other, "w"):
                pass
            if os.stat(other).st_mtime_ns != os.stat(path).st_mtime_ns:
                return

    def test_a_large_value_that_was_changed_in_place_is_computed_and_one_that_was_touched_too(self):
        work = self.counted(lambda n: [b"y" * n])
        expected = work(300_000)
        (path,) = [name for name in self.records() if name.endswith(".value")]
        self.await_another_time(path)
        with open(path, "r+b") as file:
            file.seek(150_000)
            file.write(b"z" * 8)
        self.assertEqual([work(300_000), work(300_000)], [expected, expected])
        self.assertEqual(len(self.ran), 2)
        os.utime(path)
        self.assertEqual((work(300_000), len(self.ran)), (expected, 3))

    def test_a_value_that_does_not_unpickle_is_a_warning_and_a_miss(self):
        work = self.counted(lambda x: Breaks(x))
        self.assertEqual(work(1).x, 1)
        with self.printed() as lines:
            self.assertEqual([work(1).x, work(1).x, self.ran], [1, 1, [1, 1, 1]])
        self.assertEqual(len(lines), 1)
        self.assertIn("cannot be read (ImportError: a package that is gone); it is computed", lines[0])

    def test_nothing_can_be_written_and_the_call_goes_on(self):
        os.makedirs(self.path("home", ".fnode", "cache"))
        self.write("home/.fnode/cache/values", "a file where a directory should be")
        work = self.counted()
        with self.printed() as lines:
            self.assertEqual([work(1), work(1)], [(1, 1), (1, 1)])
        self.assertIn("is not kept", lines[0])

    def test_a_data_directory_that_cannot_be_made(self):
        os.environ["FNODE_HOME"] = self.write("no-directory", "") + "/home"
        work = self.counted()
        with self.printed() as lines:
            self.assertEqual([work(1), work(1)], [(1, 1), (1, 1)])
            work.forget(1)
        self.assertIn("is not kept: [Errno 20] Not a directory", lines[0])

    def test_a_hit_touches_its_record_at_most_once_a_minute(self):
        work = self.counted()
        work(1)
        (path,) = self.records()
        os.utime(path, (1000, 1000))
        work(1)
        touched = os.stat(path).st_mtime
        self.assertGreater(touched, time.time() - 3600)
        work(1)
        self.assertEqual(os.stat(path).st_mtime, touched)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)

    def test_forget_and_off(self):
        work = self.counted()
        work(1)
        work.forget(1)
        work(1)
        os.environ["FNODE_CACHE"] = "off"
        work(1)
        self.assertEqual(self.ran, [1, 1, 1])

    def test_what_is_found_can_be_verified(self):
        state = Notes([1])
        ran = Notes(self.ran)

        @foundations.cache
        def work(x):
            ran.add(x)
            return [x, state._target[0]]

        os.environ["FNODE_CACHE"] = "verify"
        with self.printed() as lines:
            self.assertEqual([work(1), work(1)], [[1, 1], [1, 1]])
            self.assertEqual(lines, [])
            state._target[0] = 2
            self.assertEqual(work(1), [1, 2])
        self.assertEqual(len(self.ran), 3)
        self.assertEqual(len(lines), 1)
        self.assertIn("is not what it computes now", lines[0])
        self.assertIn(work.key(1), lines[0])

    def test_the_cause_of_what_differs_is_told_once_per_function_and_further_keys_shortly(self):
        state = Notes([1])

        @foundations.cache
        def work(x):
            return [x, state._target[0]]

        for x in (1, 2, 3):
            work(x)
        state._target[0] = 2
        os.environ["FNODE_CACHE"] = "VERIFY"
        with self.printed() as lines:
            for x in (1, 2, 3, 1, 2, 3):
                self.assertEqual(work(x), [x, 2])
        self.assertEqual(["name that in depends_on" in line for line in lines], [True, False, False])
        self.assertEqual([work.key(x) in line for x, line in zip((1, 2, 3), lines)], [True] * 3)
        self.assertTrue(all("nor is what is kept of" in line for line in lines[1:]), lines)

    def test_the_mode_may_be_written_as_other_switches_are(self):
        for said, means in (("OFF 0 false No", "off"), ("VERIFY verify Verify:1", "verify"), ("ON 1 true Yes", "on")):
            for word in said.split():
                os.environ["FNODE_CACHE"] = word
                self.assertEqual(verify.mode(), means, word)

    def test_what_was_raised_and_kept_is_verified_too(self):
        state = Notes(["no rows"])
        ran = Notes(self.ran)

        @foundations.cache(cache_exceptions=ValueError)
        def work(x):
            ran.add(x)
            if state._target[0]:
                raise ValueError(state._target[0])
            return x

        def raised():
            with self.assertRaises(ValueError) as caught:
                work(1)
            return str(caught.exception)

        os.environ["FNODE_CACHE"] = "verify"
        with self.printed() as lines:
            self.assertEqual([raised(), raised()], ["no rows", "no rows"])
        self.assertEqual((lines, self.ran), ([], [1, 1]))
        for other, comes in (("no columns", raised), ("", lambda: work(1))):
            state._target[0] = other
            verify._differing.clear()
            with self.printed() as lines:
                self.assertEqual(comes(), other or 1)
            self.assertEqual([work.key(1) in line for line in lines], [True], lines)
        del os.environ["FNODE_CACHE"]
        self.assertEqual((raised(), len(self.ran)), ("no rows", 4))

    def test_a_part_of_what_is_found_is_verified_and_reported(self):
        ran = Notes(self.ran)

        @foundations.cache
        def work(x):
            ran.add(x)
            return len(ran._target)

        work(1)
        report = os.environ["FNODE_CACHE_REPORT"] = self.path("report")
        os.environ["FNODE_CACHE"] = "verify:0.5"
        verify._random.seed(7)
        with self.printed() as lines:
            for _ in range(200):
                work(1)
        computed = len(self.ran) - 1
        self.assertTrue(60 < computed < 140, computed)
        with open(report) as file:
            told = [json.loads(line) for line in file]
        self.assertEqual(len(told), computed)
        self.assertEqual(told[0], {"function": work._keys.name, "key": work.key(1), "same": False})
        self.assertEqual(len(lines), 1)
        for wrong in ("verify:0", "verify:2", "verify:x", "on:0.5"):
            os.environ["FNODE_CACHE"] = wrong
            with self.printed():
                work(1)
        self.assertEqual(len(self.ran), computed + 1)

    def test_what_finding_values_saved_is_told_at_the_end(self):
        script = """if True:
            import foundations, time
            @foundations.cache
            def work(x):
                time.sleep(0.03)
                return x
            for x in (1, 1, 2, 1):
                work(x)
        """
        ended = self.script(script, FNODE_PROJECT="vision", FNODE_USER="ada", FOUNDATIONS_COMMAND_LINE="True")
        self.assertEqual(ended.returncode, 0, ended.stderr)
        with open(self.path("home", ".fnode", "cache", "hits.log")) as file:
            project, user, hits, saved_ms = json.loads(file.read())
        self.assertEqual((project, user, hits), ("vision", "ada", 2))
        self.assertTrue(60 <= saved_ms < 30_000, saved_ms)

    def test_a_mode_that_is_not_known_is_told_once_with_those_that_are(self):
        work = self.counted()
        os.environ["FNODE_CACHE"] = "bogus"
        with self.printed() as lines:
            work(1), work(1), work(2)
        self.assertEqual(self.ran, [1, 2])
        self.assertEqual(len(lines), 1)
        self.assertIn("FNODE_CACHE=bogus is not known, so results are cached as ever; write off, on, ver", lines[0])

    def test_parts_tell_what_the_key_was_made_of(self):
        work = self.counted()
        work(1)
        found = store.read(work.key(1))
        kinds = {kind for kind, _, _ in container.head_of(found.data)["parts"]}
        self.assertTrue({"argument", "function", "python"} <= kinds, kinds)


class Gone:
    def __init__(self, x):
        self.x = x


class Breaks(Gone):
    def __reduce__(self):
        return (is_gone, ())


def is_gone():
    raise ImportError("a package that is gone")


class Arguments(Cached):
    def test_wrong_arguments_are_told_by_python_itself(self):
        work = self.counted()
        for call in (lambda: work(), lambda: work(1, 2, 3), lambda: work(1, x=1), lambda: work(1, z=1)):
            with self.assertRaisesRegex(TypeError, r"work\(\)"):
                call()

    def test_ignored_arguments_do_not_count(self):
        work = self.counted(ignore=["y"])
        self.assertEqual([work(1, y=2), work(1, y=3), self.ran], [(1, 2), (1, 2), [1]])
        with self.assertRaisesRegex(ValueError, "work has no argument `z`"):
            self.counted(ignore="z")

    def test_texts_that_name_files_are_said_once_and_can_be_made_to_count(self):
        path = self.write("rows.csv", "1")
        work, by_content = self.counted(), self.counted(files=["x"])
        with self.printed() as lines:
            work(path)
            work(path)
        self.assertEqual(len(lines), 1)
        self.assertIn("names a file, whose content does not count; pass a pathlib.Path", lines[0])
        with self.printed() as lines:
            keys = [by_content.key(path)]
            self.write("rows.csv", "2")
            keys += [by_content.key(path), by_content.key(os.path.join(self.dir, ".", "rows.csv"))]
        self.assertEqual((lines, keys[1] == keys[2], keys[0] == keys[1]), ([], True, False))

    def test_what_has_no_content_is_named_and_computed(self):
        work = self.counted(lambda x: 1)
        holder = Gone({"deep": [1, first_of_two(1)]})
        with self.printed() as lines:
            self.assertEqual([work(holder), work(holder)], [1, 1])
        self.assertEqual(len(self.ran), 2)
        self.assertEqual(len(lines), 1)
        self.assertIn("is computed without the cache: argument `x`", lines[0])
        self.assertIn("['deep'][1] (generator) is an iterator", lines[0])
        with self.assertRaisesRegex(TypeError, "generator"):
            work.key(holder)

    def test_methods_count_their_object(self):
        first, second = Counter(1), Counter(2)
        self.assertEqual([first.add(1), Counter(1).add(1), second.add(1)], [2, 2, 3])
        self.assertEqual(
            [Counter.twice(2), Counter.twice(2), Counter.named(), first.named()], [4, 4, "Counter", "Counter"]
        )
        self.assertEqual(RAN, ["add", "add", "twice", "named"])
        self.assertEqual(first.add.key(1), Counter.add.key(first, 1))
        first.add.forget(1)
        self.assertEqual((first.add(1), pickle.loads(pickle.dumps(first.add))(1)), (2, 2))
        self.assertEqual(RAN[4:], ["add"])

    def test_coroutines_are_refused_and_say_so(self):
        async def work():
            return 1

        with self.assertRaisesRegex(TypeError, "a coroutine; cache a plain function that it calls"):
            foundations.cache(work)
        with self.assertRaisesRegex(TypeError, "takes a function, not int"):
            foundations.cache(3)

    def test_a_cached_function_can_be_pickled_and_used_by_another(self):
        self.assertIs(pickle.loads(pickle.dumps(plus_one)), plus_one)
        outer = foundations.cache(calls_cached)
        self.assertEqual((outer(1), outer.key(1) == outer.key(1)), (4, True))


RAN = []


def note(text, ran=Notes(RAN)):
    ran.add(text)


class Counter:
    def __init__(self, start):
        self.start = start

    @foundations.cache
    def add(self, x):
        note("add")
        return self.start + x

    @foundations.cache
    @staticmethod
    def twice(x):
        note("twice")
        return x * 2

    @foundations.cache
    @classmethod
    def named(cls):
        note("named")
        return cls.__name__


@foundations.cache
def plus_one(x):
    return x + 1


def calls_cached(x):
    return plus_one(x) * 2


class Processes(Cached):
    def test_another_process_finds_it(self):
        code = "import foundations\n@foundations.cache\ndef f(x):\n    print('ran')\n    return x\nprint(f(3))\n"
        outputs = [self.script(code, FOUNDATIONS_COMMAND_LINE="True").stdout.split() for _ in range(2)]
        self.assertEqual(outputs, [["ran", "3"], ["3"]])

    def test_threads_that_want_the_same_wait_for_one(self):
        started, go = threading.Event(), threading.Event()
        ran = Notes(self.ran)
        gates = Notes([started, go])

        @foundations.cache
        def work(x):
            ran.add(x)
            gates._target[0].set()
            gates._target[1].wait(support.TIMEOUT_S)
            return [x]

        results = []
        threads = [threading.Thread(target=lambda: results.append(work(1))) for _ in range(4)]
        threads[0].start()
        self.assertTrue(started.wait(support.TIMEOUT_S))
        for thread in threads[1:]:
            thread.start()
        self.until(lambda: len(flight._waits) == 3)
        go.set()
        for thread in threads:
            thread.join(support.TIMEOUT_S)
        self.assertEqual((results, self.ran, flight._flights, flight._waits), ([[1]] * 4, [1], {}, {}))
        self.assertEqual(len({id(result) for result in results}), 4)

    def test_threads_that_wait_for_each_other_do_not_wait_for_ever(self):
        barrier = Notes(threading.Barrier(2))
        ran = Notes(self.ran)
        functions = {}
        others = Notes(functions)

        def step(x, meet):
            ran.add(x)
            if meet:
                barrier._target.wait(support.TIMEOUT_S)
                return others._target["ba"[x]](1 - x, False)
            return x

        functions["a"] = foundations.cache(step, ignore=["meet"], version="a")
        functions["b"] = foundations.cache(step, ignore=["meet"], version="b")
        results = []
        threads = [
            threading.Thread(target=lambda: results.append(functions["a"](0, True))),
            threading.Thread(target=lambda: results.append(functions["b"](1, True))),
        ]
        for thread in threads:
            thread.daemon = True
            thread.start()
        for thread in threads:
            thread.join(support.TIMEOUT_S)
        self.assertFalse(any(thread.is_alive() for thread in threads))
        self.assertEqual(len(results), 2)

    def test_a_failure_lets_the_others_go(self):
        started, go = threading.Event(), threading.Event()
        gates, ran = Notes([started, go]), Notes(self.ran)

        @foundations.cache
        def work(x):
            ran.add(x)
            gates._target[0].set()
            gates._target[1].wait(support.TIMEOUT_S)
            raise ValueError(x)

        errors = []

        def call():
            try:
                work(1)
            except ValueError as error:
                errors.append(error)

        threads = [threading.Thread(target=call) for _ in range(2)]
        threads[0].start()
        started.wait(support.TIMEOUT_S)
        threads[1].start()
        self.until(lambda: flight._waits)
        go.set()
        for thread in threads:
            thread.join(support.TIMEOUT_S)
        self.assertEqual((len(errors), self.ran), (2, [1, 1]))

    def until(self, holds):
        deadline = time.monotonic() + support.TIMEOUT_S
        while not holds():
            self.assertLess(time.monotonic(), deadline)
            threading.Event().wait(0.001)


if __name__ == "__main__":
    unittest.main()
