"""submit and deploy: what the program `fnode` is asked, with which precedence, and what is said."""

import inspect
import json
import math
import os
import stat
import sys
import unittest

import support

import foundations
from foundations import _client, _parameters
from foundations.testing import FakeTransport, refusal

# Stands where the program is: notes how it was called, and answers as it does.
PROGRAM = """#!{python} -S
import json, os, sys
with open({log!r}, "a") as file:
    file.write(json.dumps({{"argv": sys.argv, "params": os.path.exists({params!r}) and open({params!r}).read()}}) + "\\n")
sys.stderr.write({stderr!r})
sys.stdout.write({stdout!r})
sys.exit({code})
"""


class Launching(support.Case):
    def setUp(self):
        super().setUp()
        self.project = self.path("my project")
        self.write("my project/main.py", "")
        self.write("my project/project_code/driver.py", "")
        self.program()

    def program(self, stdout='{"id": "j1", "bundle": {"total_bytes": 1000}}', stderr="", code=0):
        values = dict(python=sys.executable, log=self.path("log"), stdout=stdout, stderr=stderr, code=code)
        values["params"] = os.path.join(self.project, _parameters.PARAMETERS_FILE)
        os.environ["FNODE_BIN"] = self.write("bin/fnode", PROGRAM.format(**values))
        os.chmod(os.environ["FNODE_BIN"], stat.S_IRWXU)

    def calls(self):
        with open(self.path("log")) as file:
            return [json.loads(line) for line in file]

    def asked(self, **arguments):
        """The words of `fnode submit` for one submission, before `--` and after."""
        if os.path.exists(self.path("log")):
            os.remove(self.path("log"))
        with self.printed() as self.lines:
            self.job = foundations.submit(**dict({"job_directory": self.project}, **arguments))
        words = self.calls()[0]["argv"][1:]
        self.assertEqual(words[:2], ["submit", "--json"])
        at = words.index("--")
        options = words[2:at]
        # What every submission has is looked at once, by its own test.
        for usual in (["--env", "PYTHONPATH=."], ["--environment", "lenient"]):
            where = next((at for at in range(len(options)) if options[at : at + 2] == usual), None)
            if where is not None:
                del options[where : where + 2]
        return options, words[at + 1 :]

    def config(self, text):
        self.write("my project/job.config.yaml", text)


class Submit(Launching):
    def test_defaults(self):
        self.assertEqual(self.asked(), (["--project", "my project", self.project], ["python", "main.py"]))
        self.assertEqual(self.job.job_name(), "j1")
        self.assertEqual(
            self.lines,
            [
                "Foundations INFO: Job submission started. Ctrl-C to cancel.",
                "Foundations INFO: Preparing to bundle contents of {} for execution. Estimating bundle size.".format(
                    self.project
                ),
                "Foundations INFO: Bundling job contents.",
                "Foundations INFO: Job submitted with ID 'j1' in project 'my project'.",
            ],
        )

    def test_the_working_directory_is_the_default_directory(self):
        os.chdir(self.project)
        self.assertEqual(self.asked(job_directory=None)[0][-1], self.project)
        os.chdir(self.dir)
        self.assertEqual(self.asked(job_directory=None, job_dir="my project")[0][-1], self.project)

    def test_none_is_the_default_of_every_argument(self):
        plain = self.asked()
        names = "scheduler_config project_name entrypoint params ram num_gpus stream_job_logs command".split()
        self.assertEqual(self.asked(**dict.fromkeys(names)), plain)

    def test_everything_by_argument(self):
        options, command = self.asked(
            scheduler_config="scheduler",
            project_name="p",
            params={"rate": 0.1, "layers": [1, 2]},
            ram=2,
            num_gpus=1,
            command=["main.py", "--epochs", 3],
        )
        self.assertEqual(
            options,
            [
                "--project",
                "p",
                "--gpus",
                "1",
                "--memory",
                "2000000000B",
                "--params",
                '{"rate":0.1,"layers":[1,2]}',
                self.project,
            ],
        )
        self.assertEqual(command, ["python", "main.py", "--epochs", "3"])

    def test_argument_before_job_config_before_process_before_default(self):
        foundations.set_project_name("of the process")
        foundations.set_job_resources(num_gpus=3, ram=3)
        self.assertEqual(self.asked()[0][:6], ["--project", "of the process", "--gpus", "3", "--memory", "3000000000B"])
        self.config("project_name: of the file\nnum_gpus: 2\nram: 2\nparams: {a: 1}\n")
        self.assertEqual(
            self.asked()[0][:8],
            ["--project", "of the file", "--gpus", "2", "--memory", "2000000000B", "--params", '{"a":1}'],
        )
        options, _ = self.asked(project_name="of the call", num_gpus=0, ram=1, params={"b": 2})
        self.assertEqual(
            options, ["--project", "of the call", "--memory", "1000000000B", "--params", '{"b":2}', self.project]
        )

    def test_how_the_cache_is_used_here_is_how_the_job_uses_it(self):
        self.config("worker:\n  environment: {FNODE_CACHE: verify}\n")
        self.assertIn("FNODE_CACHE=verify", self.asked()[0])
        os.environ["FNODE_CACHE"] = "off"
        self.assertIn("FNODE_CACHE=off", self.asked()[0])

    def test_a_worker_s_variables_and_the_log_level_reach_the_job(self):
        self.config("log_level: DEBUG\nworker:\n  environment: {A: 1, B: 'x y'}\n")
        self.assertEqual(
            self.asked()[0][2:-1], ["--env", "A=1", "--env", "B=x y", "--env", "FOUNDATIONS_LOG_LEVEL=DEBUG"]
        )

    def test_counts_of_numpy_are_counts(self):
        class Count:
            def __index__(self):
                return 2

        self.assertEqual(self.asked(num_gpus=Count(), ram=Count())[0][2:6], ["--gpus", "2", "--memory", "2000000000B"])
        for wrong in (257, -1, 1.0, "1", True):
            with self.assertRaisesRegex(ValueError, "Invalid GPU quantity .*: give a whole number from 0 to 256"):
                foundations.submit(job_directory=self.project, num_gpus=wrong)

    def test_a_configuration_that_is_no_yaml_is_told_with_its_line(self):
        path = self.write("config/submission/scheduler.config.yaml", "scheduler_url: http://here\n  - 1: [\n")
        for launch in (foundations.submit, lambda **more: foundations.deploy(env="scheduler", **more)):
            with self.assertRaisesRegex(foundations.ConfigurationError, "scheduler.config.yaml:2: "):
                launch(job_directory=self.project)
        os.remove(path)
        self.write("home/.foundations/config/execution/default.config.yaml", "- a list\n")
        with self.assertRaisesRegex(foundations.ConfigurationError, "default.config.yaml holds a list; write keys"):
            foundations.submit(job_directory=self.project)
        self.assertFalse(os.path.exists(self.path("log")))

    def test_a_script_in_the_file_gives_way_to_one_that_is_asked_for(self):
        self.config("entrypoint: main.py\n")
        for command, wanted in (
            ("train.py --fast", ["python", "train.py", "--fast"]),
            (["--fast"], ["python", "main.py", "--fast"]),
            (None, ["python", "main.py"]),
        ):
            self.assertEqual(self.asked(command=command)[1], wanted)
        self.config("entrypoint: bash\n")
        self.assertEqual(self.asked(command="main.py")[1], ["bash", "main.py"])

    def test_a_search_is_warned_of_a_line_once(self):
        self.config("worker:\n  image: lab\n")
        self.assertEqual(len([line for line in self.asked() and self.lines if "image" in line]), 1)
        self.assertEqual([line for line in self.asked() and self.lines if "image" in line], [])

    def test_a_configuration_of_the_job_that_is_no_file(self):
        os.mkdir(os.path.join(self.project, "job.config.yaml"))
        with self.assertRaisesRegex(foundations.ConfigurationError, "cannot read .*job.config.yaml: Is a directory"):
            foundations.submit(job_directory=self.project)

    def test_commands_as_text_and_as_words(self):
        self.write("my project/a b.py", "")
        for command, wanted in (
            ("main.py", ["python", "main.py"]),
            ("main.py --name 'a b'", ["python", "main.py", "--name", "a b"]),
            (["a b.py"], ["python", "a b.py"]),
            (["python", "-u", "main.py"], ["python", "-u", "main.py"]),
            ("bash run.sh", ["bash", "run.sh"]),
        ):
            self.assertEqual(self.asked(command=command)[1], wanted)

    def test_an_entrypoint_is_given_the_command(self):
        self.assertEqual(self.asked(entrypoint="bash", command="run.sh")[1], ["bash", "run.sh"])
        self.assertEqual(self.asked(entrypoint="main.py")[1], ["python", "main.py"])
        self.config("entrypoint: python -u\n")
        self.assertEqual(self.asked(command="main.py")[1], ["python", "-u", "main.py"])

    def test_a_script_that_is_not_there_only_warns(self):
        self.assertEqual(self.asked(command="nothing.py")[1], ["python", "nothing.py"])
        self.assertIn(
            "Foundations WARNING: nothing.py is not in {}; the job will fail unless it is made there".format(
                self.project
            ),
            self.lines,
        )

    def test_params_lie_in_the_directory_before_it_is_bundled(self):
        self.asked(params={"rate": 0.1, "nested": {"a": [1]}})
        self.assertEqual(json.loads(self.calls()[0]["params"]), {"rate": 0.1, "nested": {"a": [1]}})
        self.assertEqual(
            sorted(os.listdir(self.project)), ["foundations_job_parameters.json", "main.py", "project_code"]
        )

    def test_without_params_the_project_s_own_file_stays(self):
        self.write("my project/foundations_job_parameters.json", '{"own": 1}')
        self.assertNotIn("--params", self.asked()[0])
        self.assertEqual(self.calls()[0]["params"], '{"own": 1}')

    def test_nan_and_large_params_travel_in_the_directory_alone(self):
        for params in ({"x": math.nan}, {"x": "y" * 200_000}):
            self.assertNotIn("--params", self.asked(params=params)[0])
            os.chdir(self.project)
            read = foundations.load_parameters(log_parameters=False)
            os.chdir(self.dir)
            self.assertEqual(repr(read), repr(params))

    def test_a_hundred_jobs_in_a_loop(self):
        jobs = set()
        for at in range(5):
            self.program(stdout=json.dumps({"id": "j{}".format(at)}))
            self.asked(params={"at": at})
            self.assertEqual(json.loads(self.calls()[0]["params"]), {"at": at})
            jobs.add(self.job.job_name())
        self.assertEqual(len(jobs), 5)

    def test_wrong_arguments_are_refused_before_anything_is_asked(self):
        for arguments, error, message in (
            ({"job_directory": "nothing"}, foundations.ConfigurationError, "nothing is not a directory"),
            ({"scheduler_config": "x"}, ValueError, "Could not find submission configuration with name: `x`"),
            ({"ram": 0}, ValueError, "Invalid RAM quantity 0"),
            ({"num_gpus": -1}, ValueError, "Invalid GPU quantity -1"),
            ({"params": [1]}, TypeError, "params is a dict, not list"),
            ({"params": {"a": object()}}, TypeError, "params holds a value of type object"),
            ({"unknown": 1}, TypeError, "unexpected keyword argument 'unknown'"),
        ):
            with self.assertRaisesRegex(error, message), self.printed():
                foundations.submit(**dict({"job_directory": self.project}, **arguments))
        self.assertFalse(os.path.exists(self.path("log")))
        self.assertEqual(sorted(os.listdir(self.project)), ["main.py", "project_code"])

    def scheduler(self, text):
        self.write("config/submission/lab.config.yaml", text)
        os.chdir(self.path("."))
        words, _ = self.asked(scheduler_config="lab")
        return words[:-1]

    def test_end_points_of_a_configuration_go_with_the_job(self):
        ends = "results_config:\n  archive_end_point: {}\ncache_config:\n  end_point: {}\n"
        words = self.scheduler(ends.format("s3://lab/x", "gcp://lab/y"))
        self.assertEqual(words[-4:], ["--archive", "s3://lab/x", "--cache-store", "gcp://lab/y"])

    def test_end_points_of_old_projects_mean_this_cluster_without_a_word(self):
        ends = "results_config:\n  archive_end_point: {}\ncache_config:\n  end_point: {}\n"
        for text in (ends.format("local://job_data", "/root/cache"), "results_config:\ncache_config: {}\n", "a: 1\n"):
            words = self.scheduler(text)
            self.assertFalse([word for word in words if word in ("--archive", "--cache-store")], text)
            self.assertFalse([line for line in self.lines if "WARNING" in line], self.lines)

    def test_sftp_is_said_not_to_be_supported_and_the_job_runs(self):
        words = self.scheduler("results_config:\n  archive_end_point: sftp://host/x\n")
        self.assertNotIn("--archive", words)
        self.assertIn("sftp:// is not supported", " ".join(self.lines))

    def test_end_points_of_a_wrong_type_are_told_with_their_line(self):
        os.chdir(self.path("."))
        for path in ("config/submission/scheduler.config.yaml", "config/execution/default.config.yaml"):
            for text, what in (
                ("a: 1\nresults_config: [1]\n", "2: `results_config` is a list; write keys with values"),
                ("cache_config: x\n", "1: `cache_config` is 'x'; write keys with values"),
                ("results_config:\n  archive_end_point: 5\n", "2: results_config's `archive_end_point` is 5; write a text"),
                ("cache_config:\n  end_point: [s3]\n", "2: cache_config's `end_point` is a list; write a text"),
            ):
                self.write(path, text)
                for send in (foundations.submit, lambda **words: foundations.deploy(env="scheduler", **words)):
                    with self.assertRaises(foundations.ConfigurationError) as refused, self.printed():
                        send(job_directory=self.project)
                    self.assertEqual(str(refused.exception), "./{}:{}".format(path, what))
            self.write(path, "results_config: {archive_end_point: }\n")
        self.assertFalse(os.path.exists(self.path("log")))

    def test_arguments_are_the_documented_ones(self):
        names = set(inspect.signature(foundations.submit).parameters)
        wanted = (
            "scheduler_config job_directory job_dir project_name entrypoint params ram num_gpus stream_job_logs command"
        )
        self.assertEqual(names, set(wanted.split()))

    def test_a_named_configuration_must_exist_here_or_at_home(self):
        self.write("config/submission/lab.config.yaml", "scheduler_url: http://127.0.0.1:5000\n")
        self.asked(scheduler_config="lab")
        self.write("home/.foundations/config/submission/far.config.yaml", "")
        self.asked(scheduler_config="far")

    def test_a_large_directory_is_told(self):
        self.program(stdout='{"id": "j1", "bundle": {"total_bytes": 120000000}}')
        self.asked()
        self.assertIn("WARNING: The job's directory is large: 120 MB; name what the job", "\n".join(self.lines))

    def test_what_the_program_warns_of_is_passed_on(self):
        self.program(stderr="fnode: warning: held by 1 node\n")
        self.asked()
        self.assertIn("Foundations WARNING: held by 1 node", self.lines)


class Failing(Launching):
    def submit(self):
        with self.printed():
            foundations.submit(job_directory=self.project)

    def test_the_program_s_reason_is_the_error(self):
        self.program(stderr="fnode: the bundle is too large; leave something out\n", code=1)
        with FakeTransport({"GET /node": {}}):
            with self.assertRaises(foundations.SubmissionError) as caught:
                self.submit()
        self.assertEqual(str(caught.exception), "the bundle is too large; leave something out")

    def test_no_daemon_is_an_error_of_its_own(self):
        self.program(stderr="fnode: no daemon\n", code=1)
        with self.assertRaisesRegex(foundations.NoDaemonError, "^Cannot currently find Atlas server. Start Atlas"):
            self.submit()

    def test_a_daemon_that_answers_anything_is_there(self):
        self.program(stderr="fnode: refused\n", code=1)
        with FakeTransport({"GET /node": refusal(503, "shutting_down", "it ends")}):
            with self.assertRaisesRegex(foundations.SubmissionError, "^refused$"):
                self.submit()

    def test_a_program_that_is_not_there_or_not_fnode(self):
        os.environ["FNODE_BIN"] = self.path("nothing")
        with self.assertRaisesRegex(foundations.SubmissionError, "cannot run .*nothing: No such file"):
            self.submit()
        for stdout in ("hello", "[]", "{}"):
            self.program(stdout=stdout)
            with self.assertRaisesRegex(foundations.SubmissionError, "is it fnode?"):
                self.submit()
        del os.environ["FNODE_BIN"]
        os.environ["PATH"] = self.dir
        with self.assertRaisesRegex(foundations.SubmissionError, "fnode is not on PATH"):
            self.submit()

    def test_a_directory_that_cannot_take_the_parameters_is_told(self):
        os.mkdir(os.path.join(self.project, _parameters.PARAMETERS_FILE))
        with self.assertRaisesRegex(foundations.ConfigurationError, "cannot write .*Is a directory"), self.printed():
            foundations.submit(job_directory=self.project, params={"a": 1})


class Streaming(Launching):
    def test_the_log_is_printed_between_what_is_said_of_the_job(self):
        api = FakeTransport({"GET /jobs/j1/log": b"one\ntwo\n", "GET /jobs/j1": support.job(state="failed")})
        with api, self.printed() as lines:
            foundations.submit(job_directory=self.project, stream_job_logs=True)
        self.assertEqual(
            lines[4:],
            [
                "Foundations INFO: Job queued. Ctrl-C to stop streaming - job will not be interrupted or cancelled.",
                "Foundations INFO: Job running, streaming logs.",
                "one",
                "two",
                "Foundations INFO: Job 'j1' has failed.",
            ],
        )

    def test_a_job_that_writes_nothing_is_told_as_running_all_the_same(self):
        silent = _client.Answer(200, {_client.ATTEMPT_HEADER: "1.1"}, iter([]))
        api = FakeTransport({"GET /jobs/j1/log": silent, "GET /jobs/j1": support.job(state="completed")})
        with api, self.printed() as lines:
            foundations.submit(job_directory=self.project, stream_job_logs=True)
        wanted = ["Foundations INFO: Job running, streaming logs.", "Foundations INFO: Job 'j1' has completed."]
        self.assertEqual(lines[5:], wanted)

    def test_without_the_wish_nothing_is_streamed(self):
        with FakeTransport() as api, self.printed():
            foundations.submit(job_directory=self.project)
        self.assertEqual(api.requests, [])


class Deploy(Launching):
    def deployed(self, *arguments, **more):
        if os.path.exists(self.path("log")):
            os.remove(self.path("log"))
        api = FakeTransport({"GET /jobs/j1": support.job(state="completed")})
        with api, self.printed() as self.lines:
            self.job = foundations.deploy(*arguments, **dict({"job_directory": self.project}, **more))
            self.status = self.job.get_job_status()
        words = self.calls()[0]["argv"]
        return words[words.index("--") + 1 :], [request.path for request in api.requests][:-1]

    def test_local_returns_when_the_job_has_ended(self):
        command, asked = self.deployed()
        self.assertEqual((command, asked), (["python", "main.py"], ["/jobs/j1"]))
        self.assertEqual(str.__str__(self.status), "Completed")
        self.assertIn("Foundations INFO: Job 'j1' deployed.", self.lines)

    def test_other_environments_return_at_once(self):
        self.assertEqual(self.deployed(env="scheduler")[1], [])
        self.assertEqual(str.__str__(self.status), "completed")
        self.write("config/cloud.config.yaml", "")
        self.assertEqual(self.deployed("p", "cloud")[1], [])
        self.assertEqual(self.calls()[0]["argv"][3:5], ["--project", "p"])

    def test_entrypoints_below_the_root_run_by_their_path(self):
        for entrypoint in ("project_code.driver", "project_code/driver.py"):
            self.assertEqual(self.deployed(entrypoint=entrypoint)[0], ["python", "project_code/driver.py"])
        self.assertEqual(self.deployed(entrypoint="main")[0], ["python", "main.py"])

    def test_a_script_that_imports_from_its_package_runs_as_a_module(self):
        self.write("my project/project_code/driver.py", "import os\nif os:\n    from . import model\n")
        for entrypoint in ("project_code.driver", "project_code/driver.py", "./project_code/driver.py"):
            self.assertEqual(self.deployed(entrypoint=entrypoint)[0], ["python", "-m", "project_code.driver"])

    def test_the_root_is_on_the_path_after_what_the_file_says(self):
        self.deployed()
        self.assertIn("PYTHONPATH=.", self.calls()[0]["argv"])
        self.config("worker: {environment: {PYTHONPATH: lib}}\n")
        self.deployed()
        self.assertIn("PYTHONPATH=lib:.", self.calls()[0]["argv"])

    def test_params_are_written(self):
        self.deployed(params={"a": 1})
        self.assertEqual(json.loads(self.calls()[0]["params"]), {"a": 1})

    def test_an_unknown_environment_is_told_with_where_to_look(self):
        with self.assertRaisesRegex(ValueError, "environment `x`; see those that exist with `foundations info --env`"):
            foundations.deploy(env="x", job_directory=self.project)


if __name__ == "__main__":
    unittest.main()
