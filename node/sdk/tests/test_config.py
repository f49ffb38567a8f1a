"""Configuration: YAML, job.config.yaml, what is set in a process, environments."""

import os
import unittest

import support

import foundations
from foundations import _config, _job_config, _yaml


class Yaml(support.Case):
    def parse(self, text):
        return _yaml.parse(text, "f.yaml")

    def test_scalars(self):
        for text, wanted in (
            ("1", 1),
            ("-7", -7),
            ("0x10", 16),
            ("1_000", 1000),
            ("1.5", 1.5),
            ("1e3", 1000.0),
            ("-.5", -0.5),
            (".inf", float("inf")),
            ("true", True),
            ("No", False),
            ("~", None),
            ("null", None),
            ("text", "text"),
            ("'1'", "1"),
            ('"a\\tb"', "a\tb"),
            ("'it''s'", "it's"),
            ("http://h:1/x", "http://h:1/x"),
            ("0123", "0123"),
            ("1.2.3", "1.2.3"),
            ("a#b", "a#b"),
            ("a # b", "a"),
            ('"a # b"', "a # b"),
            ("128G", "128G"),
            ('"\\u00fc"', "ü"),
        ):
            self.assertEqual(self.parse("k: " + text), {"k": wanted}, text)

    def test_mappings_and_lists_in_blocks(self):
        text = (
            "---\n# a project\na:\n  b: 1\n\n  c:\n    - x\n    - y: 1\n      z: 2\n    -\n      - deep\nd:\n- 1\n- - 2\n  - 3\n"
            'e:\nf: {}\n"g h": 1\nlong: one\n  two\n'
        )
        wanted = {
            "a": {"b": 1, "c": ["x", {"y": 1, "z": 2}, ["deep"]]},
            "d": [1, [2, 3]],
            "e": None,
            "f": {},
            "g h": 1,
            "long": "one two",
        }
        self.assertEqual(self.parse(text), wanted)

    def test_brackets(self):
        self.assertEqual(
            self.parse("a: [1, 'x, y', {b: 2, c: [ ]}, http://h:1]\nd: {e: 1,\n    f: ~, g}"),
            {"a": [1, "x, y", {"b": 2, "c": []}, "http://h:1"], "d": {"e": 1, "f": None, "g": None}},
        )

    def test_block_texts(self):
        text = "a: |\n  one # no comment\n    two\n\n  three\nb: >-\n  one\n  two\n\n  three\nc: 1\n"
        self.assertEqual(self.parse(text), {"a": "one # no comment\n  two\n\nthree\n", "b": "one two\nthree", "c": 1})

    def test_keys_know_their_lines(self):
        found = self.parse("# c\na: 1\n\nb:\n  c: 2\n")
        self.assertEqual((found.lines, found["b"].lines), ({"a": 2, "b": 4}, {"c": 5}))

    def test_what_is_not_read_is_refused_with_file_and_line(self):
        for text, message in (
            ("a: 1\nb: *x", "f.yaml:2: `*x` has no `&x` before it"),
            ("a: &x [1, *x]", "f.yaml:1: `*x` stands inside of `&x`"),
            ("a: & 1", "f.yaml:1: a value has one anchor with a name, and one tag"),
            ("a: &x &y 1", "f.yaml:1: a value has one anchor with a name, and one tag"),
            ("a: !!python/object:os.system x", "f.yaml:1: the tag !!python/object:os.system is not supported"),
            ("a: !!bool 1", "f.yaml:1: this is no !!bool"),
            ("<<: 1", "f.yaml:1: `<<` takes keys with values"),
            ("a: <<", "f.yaml:1: `<<` is a key"),
            ("a: {[1]: 2}", "f.yaml:1: a key is a list"),
            ("a: " + "9" * 5000, "f.yaml:1: this number is too large"),
            ("a: 1\n b: 2", "f.yaml:2: a key stands inside of a value"),
            ("a: [1, 2", "f.yaml:1: a bracket is not closed"),
            ('a: "x', "f.yaml:1: a quote is not closed"),
            ("a: 'x' y", "f.yaml:1: there is text behind the closing quote"),
            ("a: [1] y", "f.yaml:1: there is text behind the closing bracket"),
            ('a: "\\q"', "f.yaml:1: \\q is no escape"),
            ("a: 1\na: 2", "f.yaml:2: `a` stands here for the second time"),
            ("a: {b: 1, b: 2}", "f.yaml:1: `b` stands here for the second time"),
            ("a:\n\tb: 1", "f.yaml:2: a tab indents it"),
            ("a: b: c", "f.yaml:1: a value holds `: `"),
            ("a: 1\n---\nb: 2", "f.yaml:2: "),
            ("- 1\nb: 2", "f.yaml:2: this line is not indented as the ones before"),
            ("a: " + "[" * 100 + "]" * 100, "f.yaml:1: nested deeper than 64 levels"),
            ("- " * 100 + "x", "f.yaml:1: nested deeper than 64 levels"),
        ):
            with self.assertRaises(foundations.ConfigurationError, msg=text) as caught:
                self.parse(text)
            self.assertTrue(str(caught.exception).startswith(message), (text, str(caught.exception)))

    def test_what_aliases_repeat_is_bounded_in_number_in_text_and_in_depth(self):
        """The same bounds as in the program's own test of `yaml.rs`."""
        for start, allowed, pattern, message in (
            ("[" + "1, " * 998 + "1]", 100, None, "aliases unfold to more than 100000 values"),
            ("x" * (1 << 19), 16, None, "aliases unfold to more than 8 MiB of text"),
            ("[" * 33 + "]" * 33, 31, "nested", "nested deeper than 64 levels"),
        ):

            def text(count, start=start, pattern=pattern):
                many = "[" * count + "*a" + "]" * count if pattern else "[" + "*a, " * (count - 1) + "*a]"
                return "a: &a {}\nb: {}".format(start, many)

            self.parse(text(allowed))
            with self.assertRaises(foundations.ConfigurationError) as caught:
                self.parse(text(allowed + 1))
            self.assertEqual(str(caught.exception), "f.yaml:2: " + message)

    def test_no_text_does_anything_but_give_a_value_or_refuse(self):
        import random

        pieces = [
            "a",
            "b",
            ": ",
            "- ",
            "\n",
            "  ",
            "[",
            "]",
            "{",
            "}",
            ",",
            "'",
            '"',
            "#",
            "|",
            ">",
            "&a ",
            "*a",
            "<<: ",
            "!!str ",
            "&",
            "*",
            "1",
            "\\",
            "\t",
            "---",
            "ü",
            ":",
        ]
        for seed in range(3000):
            chance = random.Random(seed)
            text = "".join(chance.choice(pieces) for _ in range(chance.randint(1, 30)))
            try:
                self.parse(text)
            except foundations.ConfigurationError:
                continue
            except Exception as error:
                self.fail("seed {}: {!r}: {!r}".format(seed, text, error))

    def test_files_that_cannot_be_read(self):
        with self.assertRaisesRegex(foundations.ConfigurationError, "cannot read nothing.yaml: No such file"):
            _yaml.read_mapping("nothing.yaml")
        self.write("list.yaml", "- 1")
        with self.assertRaisesRegex(foundations.ConfigurationError, "list.yaml holds a list; write keys"):
            _yaml.read_mapping("list.yaml")
        with open("latin.yaml", "wb") as file:
            file.write(b"a: \xfc")
        with self.assertRaisesRegex(foundations.ConfigurationError, "latin.yaml is not UTF-8"):
            _yaml.read_mapping("latin.yaml")
        self.write("large.yaml", "a: " + "x" * (1 << 20))
        with self.assertRaisesRegex(foundations.ConfigurationError, "larger than a configuration"):
            _yaml.read_mapping("large.yaml")
        self.write("empty.yaml", "# nothing\n")
        self.assertEqual(_yaml.read_mapping("empty.yaml"), {})


class JobConfig(support.Case):
    def read(self, text):
        self.write("job.config.yaml", text)
        return _job_config.read(self.dir)

    def test_all_that_is_used(self):
        config = self.read(
            "project_name: mnist\nlog_level: DEBUG\nentrypoint: bash\nram: 0.5\nnum_gpus: 2\nparams:\n  a: [1]\n"
            "worker:\n  environment:\n    A: 1\n    B: true\n    C: x\n"
        )
        self.assertEqual(
            (config.project_name, config.log_level, config.entrypoint, config.ram, config.num_gpus, config.params),
            ("mnist", "DEBUG", "bash", 0.5, 2, {"a": [1]}),
        )
        self.assertEqual(config.environment, {"A": "1", "B": "true", "C": "x"})

    def test_nothing_is_nothing(self):
        self.assertIsNone(_job_config.read(self.dir).project_name)
        with self.printed() as lines:
            config = self.read("worker:\nparams:\nram:\n")
        self.assertEqual((config.environment, config.params, config.ram, lines), ({}, None, None, []))

    def test_docker_s_list_of_variables(self):
        self.assertEqual(self.read("worker:\n  environment:\n  - A=1=2\n  - B\n").environment, {"A": "1=2", "B": ""})

    def test_unknown_keys_warn_with_the_nearest_known_one(self):
        with self.printed() as lines:
            self.read(
                "project_nam: x\nworker:\n  enviroment: {A: 1}\n  image: python\n  shm_size: 128G\n  zzz: 1\nschedule: {hour: 1}\n"
            )
        path = self.path("job.config.yaml")
        self.assertEqual(
            lines,
            [
                "Foundations WARNING: {}:1: `project_nam` is not known, did you mean `project_name`?; it is ignored".format(
                    path
                ),
                "Foundations WARNING: {}:3: worker's `enviroment` is not known, did you mean `environment`?; it is ignored".format(
                    path
                ),
                "Foundations WARNING: {}:4: worker's `image` is ignored: jobs run as processes of their node, without a container".format(
                    path
                ),
                "Foundations WARNING: {}:5: worker's `shm_size` is ignored: jobs run as processes of their node, without a container".format(
                    path
                ),
                "Foundations WARNING: {}:6: worker's `zzz` is not known; it is ignored".format(path),
                "Foundations WARNING: {}:7: `schedule` belongs to monitors, which are not there yet; it is ignored".format(
                    path
                ),
            ],
        )

    def test_wrong_types_are_refused_with_file_and_line(self):
        for text, message in (
            ("\nram: much", ":2: `ram` is 'much'; write a number of gigabytes"),
            ("ram: 0", ":1: Invalid RAM quantity 0"),
            ("num_gpus: 1.5", ":1: `num_gpus` is 1.5; write a whole number"),
            ("num_gpus: true", ":1: `num_gpus` is true or false; write a whole number"),
            ("num_gpus: -1", ":1: Invalid GPU quantity -1"),
            ("params: [1]", ":1: `params` is a list; write keys with values"),
            ("project_name: {a: 1}", ":1: `project_name` is keys with values; write a text"),
            ("worker: x", ":1: `worker` is 'x'; write keys with values"),
            ("worker:\n  environment: x", ":2: worker's `environment` is 'x'; write keys with values"),
        ):
            with self.assertRaises(foundations.ConfigurationError, msg=text) as caught:
                self.read(text)
            self.assertTrue(
                str(caught.exception).startswith(self.path("job.config.yaml") + message), str(caught.exception)
            )


class Process(support.Case):
    def test_config_manager(self):
        manager = foundations.config_manager
        os.environ["FOUNDATIONS_MY_KEY"] = "from the environment"
        self.assertEqual((manager["MY_KEY"], manager["my_key"]), ("from the environment",) * 2)
        manager.add_config_path(self.write("a.yaml", "my_key: from a file\nother: 1\n"))
        self.assertEqual((manager["my_key"], manager.config()["other"]), ("from a file", 1))
        manager["my_key"] = "set"
        manager["job_notification_channel"] = "chan"
        self.assertEqual((manager["my_key"], manager.get("nothing", 7), "other" in manager), ("set", 7, True))
        manager.reset()
        self.assertEqual(manager["my_key"], "from the environment")
        with self.assertRaises(KeyError):
            manager["other"]
        with self.assertRaisesRegex(foundations.ConfigurationError, "cannot read nothing.yaml"):
            manager.add_config_path("nothing.yaml")
        self.assertEqual(manager["my_key"], "from the environment")

    def test_set_job_resources_checks_and_changes_nothing_when_wrong(self):
        foundations.set_job_resources(1, 0.5)
        for gpus, ram in (
            (-1, None),
            (1.5, None),
            ("1", None),
            (True, None),
            (0, 0),
            (0, -1),
            (0, "1"),
            (0, float("nan")),
        ):
            with self.assertRaises(ValueError):
                foundations.set_job_resources(gpus, ram)
        self.assertEqual(_config.resources(), {"num_gpus": 1, "ram": 0.5})

    def test_gigabytes_and_numbers_that_can_only_be_bytes(self):
        self.assertEqual([_config.ram_bytes(ram) for ram in (1, 0.5, 16 * 2**30)], [10**9, 5 * 10**8, 16 * 2**30])

    def test_environments(self):
        foundations.set_environment("local")
        with self.assertRaises(ValueError) as caught:
            foundations.set_environment("cloud")
        self.assertEqual(
            str(caught.exception),
            "No environment cloud found, please set a valid deployment environment with foundations.set_environment",
        )
        self.write("home/.foundations/config/cloud.config.yaml", "log_level: ERROR\nwhere: home\n")
        foundations.set_environment("cloud")
        self.assertEqual(foundations.config_manager["where"], "home")
        self.write("config/cloud.config.yaml", "where: here\n")
        foundations.set_environment("cloud")
        self.assertEqual(foundations.config_manager["where"], "here")
        os.environ["FOUNDATIONS_HOME"] = self.path("elsewhere")
        self.write("elsewhere/config/submission/far.config.yaml", "where: far\n")
        foundations.set_environment("far")
        self.assertEqual(foundations.config_manager["where"], "far")
        with self.assertRaises(ValueError):
            foundations.set_environment("../far")


if __name__ == "__main__":
    unittest.main()
