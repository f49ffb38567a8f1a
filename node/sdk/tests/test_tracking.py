"""Metrics and tags: what is accepted, what is refused and how, and what lies in the track file then."""

import math
import multiprocessing
import os
import signal
import threading
import time
import unittest
from decimal import Decimal
from enum import IntEnum

import support

import foundations
from foundations import _track
from foundations.testing import tracked_job

try:
    import numpy
except ImportError:
    numpy = None


class Scalar:
    """What a scalar of numpy or torch looks like from outside."""

    ndim = 0

    def __init__(self, value):
        self._value = value

    def item(self):
        return self._value


class Eager:
    """A tensor of TensorFlow."""

    ndim = 0

    def numpy(self):
        return Scalar(2.5)


class Vector:
    ndim = 1

    def item(self):
        raise ValueError("only one element arrays")


class Float64(float):
    """numpy.float64 is a float whose text is not a number."""

    def __repr__(self):
        return "np.float64({})".format(float(self))


class Color(IntEnum):
    RED = 3


class Metrics(support.Case):
    def setUp(self):
        super().setUp()
        self.job = self.enter(tracked_job())

    def points(self):
        return [line[:4] for line in self.job.lines if line[0] == "m"]

    def test_numbers_texts_and_truth_values_become_points_with_a_time(self):
        before = time.time()
        for value in (1, 0.5, "good", True, -7, 1e300):
            foundations.log_metric("m", value)
        self.assertEqual(self.points(), [["m", "m", value, None] for value in (1, 0.5, "good", True, -7, 1e300)])
        self.assertIs(self.points()[3][2], True)
        for line in self.job.lines:
            self.assertTrue(before - 1 <= line[4] <= time.time() + 1)

    def test_repeated_calls_append_in_order(self):
        for value in range(1000):
            foundations.log_metric("loss", value)
        self.assertEqual(self.job.metrics, {"loss": list(range(1000))})

    def test_a_flat_list_is_a_point_per_element(self):
        foundations.log_metric("m", [1, 2.5, "x", Scalar(4)])
        self.assertEqual(self.job.metrics, {"m": [1, 2.5, "x", 4]})
        foundations.log_metric("empty", [])
        self.assertEqual(len(self.job.lines), 4)

    def test_steps_are_kept(self):
        foundations.log_metric("m", 1, step=10)
        foundations.log_metric("m", [2, 3], 11)
        foundations.log_metric("m", 4, step=Scalar(12))
        self.assertEqual([line[3] for line in self.points()], [10, 11, 11, 12])

    def test_scalars_of_array_packages_are_what_they_hold(self):
        for value, wanted in (
            (Scalar(0.5), 0.5),
            (Scalar(3), 3),
            (Scalar(True), True),
            (Scalar("t"), "t"),
            (Eager(), 2.5),
        ):
            foundations.log_metric("m", value)
            self.assertEqual(self.points()[-1][2], wanted)
        for value, wanted in ((Float64(1.5), 1.5), (Color.RED, 3)):
            foundations.log_metric("m", value)
            self.assertEqual(self.points()[-1][2], wanted)

    def test_nan_and_infinity_are_kept(self):
        for value in (math.nan, math.inf, -math.inf, Scalar(math.nan), Float64(math.inf)):
            foundations.log_metric("m", value)
        self.assertEqual(
            [line[2] for line in self.points()],
            [{"f": "nan"}, {"f": "inf"}, {"f": "-inf"}, {"f": "nan"}, {"f": "inf"}],
        )
        read = self.job.metrics["m"]
        self.assertTrue(math.isnan(read[0]) and read[1] == math.inf and read[2] == -math.inf)

    def test_integers_too_large_for_a_reader_become_floating_point(self):
        foundations.log_metric("m", [2**64 - 1, -(2**63), 2**64, 10**400, -(10**400)])
        self.assertEqual(
            [line[2] for line in self.points()], [2**64 - 1, -(2**63), float(2**64), {"f": "inf"}, {"f": "-inf"}]
        )

    def test_a_key_that_is_not_a_string_is_a_value_error(self):
        for key in (1, None, b"m", ["m"], ""):
            with self.assertRaisesRegex(ValueError, "^Invalid metric name "):
                foundations.log_metric(key, 1)
        self.assertEqual(self.job.lines, [])

    def test_a_name_of_the_node_is_a_value_error_that_names_the_prefix(self):
        for key in ("system/x", "system/cpu", "system/"):
            with self.assertRaisesRegex(ValueError, "begin with system/ are reserved"):
                foundations.log_metric(key, 1)
        foundations.log_metric("system", 1)
        foundations.log_metric("systems/cpu", 1)
        self.assertEqual([line[1] for line in self.points()], ["system", "systems/cpu"])

    def test_any_other_value_is_a_type_error_and_nothing_is_written(self):
        for value in (None, {}, (1, 2), [[1]], [1, None], object(), b"x", 1j, Decimal(1), Vector(), Scalar(1j), {1}):
            with self.assertRaisesRegex(TypeError, '^Invalid metric with key="m" of value='):
                foundations.log_metric("m", value)
        self.assertEqual(self.job.lines, [])

    def test_long_values_are_cut_in_the_message(self):
        with self.assertRaises(TypeError) as caught:
            foundations.log_metric("m", {"a": "x" * 100})
        self.assertIn("of value={'a': '" + "x" * 23 + " ... with type <class 'dict'>", str(caught.exception))

    def test_a_step_that_is_none_is_refused(self):
        for step in (1.5, "1", [1]):
            with self.assertRaisesRegex(TypeError, "a step is a whole number or None"):
                foundations.log_metric("m", 1, step=step)
        with self.assertRaisesRegex(ValueError, "64 bits"):
            foundations.log_metric("m", 1, step=2**63)
        self.assertEqual(self.job.lines, [])

    def test_keys_and_texts_may_hold_anything(self):
        odd = 'a"b\\c\n\t:/ü漢🦀\u2028\0'
        foundations.log_metric(odd, odd)
        self.assertEqual(self.job.metrics, {odd: [odd]})

    def test_half_of_a_character_does_not_harm_the_file(self):
        foundations.log_metric("m", "a\ud800b")
        self.assertEqual(self.job.metrics, {"m": ["a?b"]})

    def test_a_line_has_at_most_64_kib(self):
        room = 64 * 1024 - len('["m","m","",null,1700000000.1234567]\n') - 8
        foundations.log_metric("m", "x" * room)
        for value in ("x" * (64 * 1024), ["ok", "x" * (64 * 1024)]):
            with self.assertRaisesRegex(
                ValueError, "more than the 65536 of one line; save long texts with save_artifact"
            ):
                foundations.log_metric("m", value)
        self.assertEqual([len(value) for value in self.job.metrics["m"]], [room])

    def test_log_metrics_takes_a_dict_or_one_series(self):
        foundations.log_metrics({"a": 1, "b": [2, 3]}, step=4)
        foundations.log_metrics("c", 5)
        self.assertEqual(self.job.metrics, {"a": [1], "b": [2, 3], "c": [5]})
        self.assertEqual([line[3] for line in self.points()], [4, 4, 4, None])
        with self.assertRaisesRegex(TypeError, "takes a dict"):
            foundations.log_metrics("c")


@unittest.skipUnless(numpy, "numpy is not installed: what looks like its scalars was tried instead")
class Numpy(support.Case):
    def test_real_scalars_and_arrays(self):
        with tracked_job() as job:
            for value in (
                numpy.float64(0.5),
                numpy.float32(0.5),
                numpy.float16(0.5),
                numpy.int64(3),
                numpy.uint8(3),
                numpy.bool_(True),
                numpy.str_("t"),
                numpy.array(1.5),
                numpy.float32("nan"),
            ):
                foundations.log_metric("m", value)
            self.assertEqual(job.metrics["m"][:-1], [0.5, 0.5, 0.5, 3, 3, True, "t", 1.5])
            self.assertTrue(math.isnan(job.metrics["m"][-1]))
            for value in (numpy.array([1.0]), numpy.complex128(1j), numpy.datetime64("2020-01-01")):
                with self.assertRaises(TypeError):
                    foundations.log_metric("m", value)
            foundations.log_param("p", {"a": numpy.arange(3), "b": numpy.float32(1)})
            self.assertEqual(job.params, {"p": {"a": [0, 1, 2], "b": 1}})


class Outside(support.Case):
    def test_one_warning_and_nothing_else_but_arguments_are_checked(self):
        with self.printed() as lines:
            for _ in range(3):
                foundations.log_metric("m", 1)
            foundations.log_param("p", 1)
            foundations.log_params({"p": 1})
            foundations.set_tag("t", "v")
            foundations.set_tensorboard_logdir("runs")
            with self.assertRaises(ValueError):
                foundations.log_metric(1, 1)
            with self.assertRaises(TypeError):
                foundations.log_metric("m", None)
        self.assertEqual(lines, ["Foundations WARNING: Script not run with Foundations."])

    def test_the_log_level_silences_it(self):
        os.environ["FOUNDATIONS_LOG_LEVEL"] = "ERROR"
        with self.printed() as lines:
            foundations.log_metric("m", 1)
        self.assertEqual(lines, [])


class Tags(support.Case):
    def test_tags_are_texts_and_a_second_one_overwrites_with_a_warning(self):
        with tracked_job() as job, self.printed() as lines:
            foundations.set_tag("k", "v")
            foundations.set_tag("k", 2)
            foundations.set_tag("alone")
            self.assertEqual(job.tags, {"k": "2", "alone": ""})
            self.assertEqual(job.lines, [["t", "k", "v"], ["t", "k", "2"], ["t", "alone", ""]])
        self.assertEqual(lines, ["Foundations WARNING: Tag `k` updated to `2`"])


class File(support.Case):
    """What holds of the file whatever happens to the process."""

    def test_lines_of_threads_and_processes_do_not_mix(self):
        def write(name):
            for at in range(300):
                foundations.log_metric(name, "x" * (at % 200), step=at)

        with tracked_job() as job:
            context = multiprocessing.get_context("fork")
            children = [context.Process(target=write, args=("p{}".format(n),)) for n in range(3)]
            foundations.log_metric("first", 1)
            for child in children:
                child.start()
            threads = [threading.Thread(target=write, args=("t{}".format(n),)) for n in range(3)]
            for thread in threads:
                thread.start()
            for one in children + threads:
                one.join(support.TIMEOUT_S)
            series = {}
            for line in job.lines[1:]:
                series.setdefault(line[1], []).append(line[3])
            self.assertEqual(series, {name: list(range(300)) for name in ("p0", "p1", "p2", "t0", "t1", "t2")})

    def test_a_killed_process_loses_nothing_that_had_returned(self):
        track = self.path("track")
        done = self.script(
            "import foundations, os, signal\n"
            "for at in range(500): foundations.log_metric('m', at)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n",
            FNODE_TRACK=track,
            FNODE_JOB_ID="j",
        )
        self.assertEqual(done.returncode, -signal.SIGKILL)
        with open(track) as file:
            self.assertEqual(len(file.readlines()), 500)

    def test_each_call_is_one_write(self):
        with tracked_job():
            foundations.log_metric("m", 0)
            writes, write = [], os.write
            try:
                _track.os.write = lambda descriptor, data: writes.append(data) or write(descriptor, data)
                foundations.log_metric("m", [1, 2, 3])
                foundations.log_params({"a": 1, "b": 2})
            finally:
                _track.os.write = write
        self.assertEqual([data.count(b"\n") for data in writes], [3, 2])

    @unittest.skipUnless(os.path.exists("/dev/full"), "there is no /dev/full here")
    def test_a_full_disk_is_told_with_the_reason(self):
        with tracked_job():
            os.environ["FNODE_TRACK"] = "/dev/full"
            with self.assertRaisesRegex(foundations.TrackError, "cannot write /dev/full: No space left"):
                foundations.log_metric("m", 1)

    def test_after_a_line_that_was_cut_off_the_next_one_begins_anew(self):
        with tracked_job() as job:
            foundations.log_metric("m", 1)
            write = os.write
            try:
                _track.os.write = lambda descriptor, data: write(descriptor, data[:5])
                with self.assertRaisesRegex(foundations.TrackError, "No space left"):
                    foundations.log_metric("m", 2)
            finally:
                _track.os.write = write
            foundations.log_metric("m", 3)
            with open(job.track) as file:
                lines = file.read().split("\n")
            self.assertEqual([lines[1][:8], lines[2][:8]], ['["m",', '["m","m"'[:8]])
            self.assertEqual(len(lines), 4)

    def test_a_program_that_closes_all_files_goes_on_tracking(self):
        with tracked_job() as job:
            foundations.log_metric("m", 1)
            os.close(_track.current()._fd)
            foundations.log_metric("m", 2)
            self.assertEqual(job.metrics, {"m": [1, 2]})

    def test_a_file_that_cannot_be_made_is_told(self):
        with tracked_job():
            os.environ["FNODE_TRACK"] = self.path("no", "such", "track")
            with self.assertRaisesRegex(foundations.TrackError, "No such file or directory; what was to be logged"):
                foundations.log_metric("m", 1)

    def test_the_file_is_not_inherited_by_programs_that_a_job_starts(self):
        with tracked_job():
            foundations.log_metric("m", 1)
            self.assertFalse(os.get_inheritable(_track.current()._fd))


if __name__ == "__main__":
    unittest.main()
