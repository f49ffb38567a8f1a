"""Parameters: the file, flattening, logging, drawing at random."""

import json
import math
import unittest

import support

import foundations
from foundations.testing import tracked_job

FILE = "foundations_job_parameters.json"


class Array:
    """What an array of numpy looks like from outside."""

    ndim = 1

    def tolist(self):
        return [1, 2]


class Logging(support.Case):
    def setUp(self):
        super().setUp()
        self.job = self.enter(tracked_job())

    def test_any_json_value_is_kept_and_a_later_one_overwrites(self):
        for value in (1, 0.5, "x", True, None, [1, [2]], {"a": {"b": 1}}):
            foundations.log_param("p", value)
            self.assertEqual(self.job.params, {"p": value})
        self.assertEqual(self.job.lines[0], ["p", "p", 1])

    def test_tuples_sets_and_arrays_are_lists(self):
        foundations.log_param("p", (1, 2))
        foundations.log_param("q", Array())
        foundations.log_param("r", {3})
        self.assertEqual(self.job.params, {"p": [1, 2], "q": [1, 2], "r": [3]})

    def test_nan_is_kept_inside_of_lists_too(self):
        foundations.log_param("p", [math.nan, math.inf])
        read = self.job.params["p"]
        self.assertTrue(math.isnan(read[0]) and read[1] == math.inf)

    def test_what_json_cannot_hold_is_a_type_error_and_nothing_is_written(self):
        with self.assertRaisesRegex(TypeError, "parameter `p` holds a value of type object, which JSON cannot hold"):
            foundations.log_param("p", object())
        with self.assertRaises(TypeError):
            foundations.log_params({"good": 1, "bad": {"deep": object()}})
        self.assertEqual(self.job.lines, [])

    def test_what_holds_itself_is_a_value_error(self):
        endless = []
        endless.append(endless)
        with self.assertRaisesRegex(ValueError, "holds itself"):
            foundations.log_param("p", endless)
        with self.assertRaisesRegex(ValueError, "holds itself"):
            foundations.log_params({"p": endless})

    def test_what_is_too_long_is_a_value_error(self):
        with self.assertRaisesRegex(ValueError, "parameter `p` takes .* save large values with save_artifact"):
            foundations.log_param("p", "x" * 70000)

    def test_log_params_flattens(self):
        foundations.log_params({"a": {"b": 1, "c": [2, {"d": 3}]}, "e": [], "f": {}})
        self.assertEqual(self.job.params, {"a_b": 1, "a_c_0": 2, "a_c_1_d": 3, "e": None, "f": None})
        with self.assertRaisesRegex(TypeError, "log_params takes a dict, not list"):
            foundations.log_params([1])


class Flattening(support.Case):
    def test_the_rule(self):
        flatten = foundations.flatten_parameter_dictionary
        self.assertEqual(flatten({}), {})
        self.assertEqual(flatten({"a": 1, "b": "x", "c": None}), {"a": 1, "b": "x", "c": None})
        self.assertEqual(flatten({"a": [1, [2, 3]], "b": {"c": {}}}), {"a_0": 1, "a_1_0": 2, "a_1_1": 3, "b_c": None})
        self.assertEqual(list(flatten({"z": 1, "a": {"y": 1, "b": 2}})), ["z", "a_y", "a_b"])


class Loading(support.Case):
    def test_a_missing_and_an_empty_file_are_no_parameters(self):
        self.assertEqual(foundations.load_parameters(), {})
        self.write(FILE, "  \n")
        self.assertEqual(foundations.load_parameters(), {})

    def test_the_object_is_returned_and_logged_flat_and_whole(self):
        self.write(FILE, '{"rate": 0.1, "layers": [1, 2]}')
        with tracked_job() as job:
            self.assertEqual(foundations.load_parameters(), {"rate": 0.1, "layers": [1, 2]})
            self.assertEqual(job.params, {"rate": 0.1, "layers_0": 1, "layers_1": 2})
            self.assertEqual(job.lines[0], ["P", {"rate": 0.1, "layers": [1, 2]}])

    def test_logging_can_be_left_out(self):
        self.write(FILE, '{"rate": 0.1}')
        with tracked_job() as job:
            self.assertEqual(foundations.load_parameters(log_parameters=False), {"rate": 0.1})
            self.assertEqual(job.lines, [])

    def test_a_large_file_is_kept_by_its_parts(self):
        self.write(FILE, json.dumps({"p{}".format(at): "x" * 1000 for at in range(100)}))
        with tracked_job() as job:
            foundations.load_parameters()
            self.assertEqual(len(job.params), 100)
            self.assertEqual({line[0] for line in job.lines}, {"p"})

    def test_what_is_no_object_is_told_with_the_place(self):
        for text, message in (
            ("{", FILE + " is not JSON: .*line 1 column 2"),
            ("[1]", FILE + ' holds a list; write an object, as {"batch_size": 32}'),
        ):
            self.write(FILE, text)
            with self.assertRaisesRegex(foundations.ParametersError, message) as caught:
                foundations.load_parameters()
            self.assertIsInstance(caught.exception, ValueError)
        with open(FILE, "wb") as file:
            file.write(b'{"a": "\xff"}')
        with self.assertRaisesRegex(foundations.ParametersError, "not UTF-8"):
            foundations.load_parameters()


class Drawing(support.Case):
    def test_ranges_are_drawn_and_other_values_pass_through(self):
        draw = foundations.generate_random_parameters
        for _ in range(50):
            drawn = draw(
                {"rate": {"min": 0.1, "max": 0.2}, "epochs": 3, "names": ["a"], "sub": {"x": {"min": 1, "max": 1}}}
            )
            self.assertTrue(0.1 <= drawn["rate"] <= 0.2)
            self.assertEqual((drawn["epochs"], drawn["names"], drawn["sub"]), (3, ["a"], {"x": 1.0}))

    def test_counts_give_lists_in_both_spellings(self):
        draw = foundations.generate_random_parameters
        for least, most in (("min_count", "max_count"), ("count_min", "count_max")):
            lengths = {len(draw({"l": {"min": 0, "max": 1, least: 1, most: 3}})["l"]) for _ in range(200)}
            self.assertEqual(lengths, {1, 2, 3})

    def test_what_is_no_space_is_refused(self):
        draw = foundations.generate_random_parameters
        with self.assertRaisesRegex(TypeError, "takes a dict of ranges, not list"):
            draw([1])
        for wrong in ({"min": "a", "max": 1}, {"min": 0, "max": 1, "min_count": 1.5, "max_count": 2}):
            with self.assertRaisesRegex(ValueError, "the range of `x` has"):
                draw({"x": wrong})
        with self.assertRaisesRegex(ValueError, "swap them"):
            draw({"x": {"min": 0, "max": 1, "min_count": 3, "max_count": 2}})


if __name__ == "__main__":
    unittest.main()
