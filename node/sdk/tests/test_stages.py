"""Stages: the graph that calls make, how it runs, how it gets into a job, and what is told of it."""

import json
import os
import subprocess
import sys
import unittest

import support
from test_cache import Notes

import foundations
from foundations import _console, _errors
from foundations._stages import carry, stage
from foundations.testing import FakeTransport, tracked_job

try:
    import pandas
except ImportError:
    pandas = None

RAN = []


def ran(name, notes=Notes(RAN)):
    notes.add(name)


def load(size):
    ran("load")
    return list(range(size))


def total(*rows, **more):
    ran("total")
    return sum(sum(row) for row in rows) + sum(more.values())


def train(rows, rate, power=1):
    ran("train")
    foundations.log_metric("score", sum(rows) * rate)
    foundations.set_tag("kind", "linear")
    return sum(rows) * rate**power


def fail(x):
    raise KeyError(x)


def nested(value):
    return value


@foundations.context_aware
def aware(context, x):
    ran("aware")
    context.log_metric("seen", x)
    context.meta_data["x"] = x
    return context.name, len(context.uuid), x


class Model:
    def __init__(self, size):
        self.size = size

    def predict(self, x, bias=0):
        return self.size * x + bias


class Case(support.Case):
    def setUp(self):
        super().setUp()
        _console.quiet_not_a_job()
        RAN.clear()

    def stages(self, *functions):
        return [foundations.create_stage(function) for function in functions]


class Graph(Case):
    def test_a_stage_runs_once_however_often_it_is_used(self):
        load_stage, total_stage = self.stages(load, total)
        rows = load_stage(4)
        self.assertEqual(RAN, [])
        self.assertEqual(total_stage(rows, rows, load_stage(2)).run_same_process(), 13)
        self.assertEqual(RAN, ["load", "load", "total"])

    def test_stages_are_found_in_lists_tuples_and_dicts(self):
        load_stage, echo = self.stages(load, nested)
        value = {"a": [load_stage(1), (load_stage(2), {"b": load_stage(3)})], "c": 4}
        self.assertEqual(echo(value).run_same_process(), {"a": [[0], ([0, 1], {"b": [0, 1, 2]})], "c": 4})
        self.assertEqual(type(value["a"][0]), stage.Stage)

    def test_items_attributes_methods_classes_and_split(self):
        load_stage, model_stage, echo = self.stages(load, Model, nested)
        model = model_stage(load_stage(5)[3])
        self.assertEqual(model.size.run_same_process(), 3)
        self.assertEqual(model.predict(load_stage(3)[2], bias=model.size).run_same_process(), 9)
        first, second = load_stage(2).split(2)
        self.assertEqual(echo([second, first]).run_same_process(), [1, 0])
        with self.assertRaises(IndexError):
            load_stage(1).split(2)[1].run_same_process()
        with self.assertRaises(TypeError):
            echo(3).split(1)[0].run_same_process()
        with self.assertRaisesRegex(TypeError, "has no elements before it runs"):
            list(load_stage(2))

    def test_required_stages_run_first(self):
        load_stage, total_stage = self.stages(load, total)
        last = total_stage(a=1)
        self.assertIs(last.require(load_stage(1)), last)
        self.assertEqual((last.run_same_process(), RAN), (1, ["load", "total"]))
        with self.assertRaisesRegex(TypeError, "require takes stages"):
            last.require(3)
        first = load_stage(1)
        first.require(last)
        last.require(first)
        with self.assertRaisesRegex(ValueError, "need each other"):
            last.run_same_process()

    def test_hyperparameters_are_filled_at_run(self):
        load_stage, train_stage, echo = self.stages(load, train, nested)
        hole = foundations.Hyperparameter
        score = train_stage(load_stage(hole("size")), hole(), power=hole())
        self.assertEqual(stage.holes_of(score), {"size", "rate", "power"})
        self.assertEqual(score.run_same_process(size=3, rate=2, power=2), 12)
        self.assertEqual(echo([hole("deep")]).run_same_process(deep=1), [1])
        with self.assertRaisesRegex(ValueError, "hyperparameter `power` has no value"):
            score.run(params_dict={"size": 3}, rate=1)
        with self.assertRaisesRegex(ValueError, "needs a name"):
            echo([hole()]).run(x=1)

    def test_wrong_arguments_are_refused_when_the_graph_is_made(self):
        load_stage, echo = self.stages(load, nested)
        circle = [load_stage(1)]
        circle.append({"again": (circle,)})
        with self.assertRaisesRegex(TypeError, "^argument 1 of a stage is a list that contains itself$"):
            echo(circle)
        with self.assertRaisesRegex(TypeError, "^argument `value` of a stage is a list that contains itself$"):
            echo(value=[circle])
        twice = [1]
        self.assertEqual(echo([twice, twice, load_stage(1)]).run_same_process(), [[1], [1], [0]])
        for wrong in (0, -1):
            with self.assertRaisesRegex(ValueError, "at least 1, not {}".format(wrong)):
                load_stage(1).split(wrong)
        for wrong in ("2", True, 2.0):
            with self.assertRaisesRegex(TypeError, "split takes a whole number, not"):
                load_stage(1).split(wrong)
        with self.assertRaisesRegex(TypeError, "params_dict is a dict of hyperparameters, not list"):
            load_stage(1).run(params_dict=[1])

    def test_hyperparameters_that_no_stage_has_are_told_once(self):
        (load_stage,) = self.stages(load)
        with tracked_job(), self.printed() as lines:
            load_stage(foundations.Hyperparameter("size")).run(params_dict={"size": 1, "rate": 2, "depth": 3})
        lines = [line for line in lines if "hyperparameter" in line]
        what = "no stage has a hyperparameter `depth`, `rate`; it is logged with the job, and used by none"
        self.assertEqual(lines, ["Foundations WARNING: " + what])

    def test_names_and_words(self):
        (load_stage,) = self.stages(load)
        one, two = load_stage(1), load_stage(1)
        self.assertEqual((one.name(), one.function_name(), len(one.uuid())), ("load", "load", 32))
        self.assertNotEqual(one.uuid(), two.uuid())
        self.assertEqual(one.stage(len).run_same_process(), 1)
        self.assertEqual(one.stage(divmod, 2).function_name(), "divmod")
        self.assertIs(foundations.create_stage(load_stage), load_stage)
        self.assertEqual(load_stage.__name__, "load")
        for search in (one.grid_search, one.random_search, one.adaptive_search):
            with self.assertRaisesRegex(foundations.NotAvailableYetError, "searches over stages"):
                search({})
        with self.assertRaisesRegex(TypeError, "parallel is True or False, not 2"):
            one.run(parallel=2)
        with self.assertRaisesRegex(TypeError, "takes a function or a class, not int"):
            foundations.create_stage(3)

    def test_whether_stages_run_in_parallel(self):
        self.assertFalse(stage.is_parallel(None))
        self.write("job.config.yaml", "parallel_stages: true\n")
        self.assertTrue(stage.is_parallel(None))
        os.environ["FNODE_PARALLEL_STAGES"] = "0"
        self.assertEqual([stage.is_parallel(given) for given in (None, True, False)], [False, True, False])
        os.environ["FNODE_PARALLEL_STAGES"] = "maybe"
        with self.assertRaisesRegex(foundations.ConfigurationError, "FNODE_PARALLEL_STAGES is 'maybe'; write 1 or 0"):
            stage.is_parallel(None)

    def test_a_long_chain_needs_no_recursion(self):
        last = foundations.create_stage(nested)(0)
        for _ in range(3000):
            last = last.stage(lambda x: x + 1)
        self.assertEqual(last.run_same_process(), 3000)

    def test_context(self):
        (aware_stage,) = self.stages(aware)
        self.assertEqual(aware_stage(3).run_same_process(), ("aware", 32, 3))
        cached = aware_stage(4).enable_caching()
        self.assertEqual(cached.run_same_process(), ("aware", 32, 4))
        self.assertEqual(aware_stage(4).enable_caching().run_same_process(), ("aware", 32, 4))
        self.assertEqual(RAN, ["aware", "aware"])


class Caching(Case):
    def graph(self, size=4, rate=2):
        load_stage, train_stage = self.stages(load, train)
        return train_stage(load_stage(size), rate)

    def test_results_are_found_by_another_graph(self):
        self.assertEqual([self.graph().enable_caching().run_same_process() for _ in range(2)], [12, 12])
        self.assertEqual(RAN, ["load", "train"])
        self.assertEqual(self.graph(rate=3).enable_caching().run_same_process(), 18)
        self.assertEqual(RAN, ["load", "train", "train"])
        self.assertEqual(self.graph().run_same_process(), 12)
        self.assertEqual(RAN[3:], ["load", "train"])

    def test_caching_is_set_for_all_that_is_needed_and_can_be_taken_back(self):
        last = self.graph()
        self.assertIs(last.enable_caching(), last)
        self.assertTrue(all(one._caching for one in stage.in_order(last)))
        self.assertIs(last.disable_caching(), last)
        self.assertFalse(any(one._caching for one in stage.in_order(last)))

    def test_a_cache_name_is_part_of_the_key(self):
        for name in ("a", "a", "b"):
            self.graph().enable_caching().set_global_cache_name(name).run_same_process()
        self.assertEqual(RAN, ["load", "train", "train"])

    def test_what_a_found_stage_tracked_is_tracked_again(self):
        for hit in (False, True):
            with tracked_job() as job:
                self.graph().enable_caching().run()
                self.assertEqual((job.metrics, job.tags), ({"score": [12]}, {"kind": "linear"}))
                (run,) = self.told(job)
            self.assertEqual([one["hit"] for one in run["stages"]], [hit, hit])
            self.assertEqual([one["key"] is not None for one in run["stages"]], [True, True])
            self.assertEqual([entry["value"] for entry in run["stages"][1]["log"]], [12])
        self.assertEqual(RAN, ["load", "train"])

    def test_a_function_with_a_cache_of_its_own_is_told_too(self):
        (stage_function,) = self.stages(foundations.cache(load))
        for hit in (False, True):
            with tracked_job() as job:
                stage_function(3).run()
                self.assertEqual([one["hit"] for one in self.told(job)[0]["stages"]], [hit])

    def told(self, job):
        with open(job.artifacts["foundations_stages.json"]) as file:
            return json.load(file)["runs"]


class InAJob(Caching):
    def test_a_run_in_a_job_is_part_of_it(self):
        load_stage, train_stage = self.stages(load, train)
        with tracked_job(job_id="j1") as job:
            rows = load_stage(4).persist()
            deployment = train_stage(rows, foundations.Hyperparameter("rate")).run({"rate": 0.5}, job_name="mine")
            results = deployment.fetch_job_results()
            (run,) = self.told(job)
            self.assertEqual((job.params, job.tags["job_name"]), ({"rate": 0.5}, "mine"))
            self.assertEqual(set(job.artifacts), {"foundations_stages.json", "foundations_stages/" + rows.uuid()})
        self.assertEqual((deployment.job_name(), deployment.get_job_status()), ("j1", "completed"))
        first, second = run["stages"]
        self.assertEqual(
            (first["state"], first["hit"], first["needs"], second["needs"]), ("completed", None, [], [rows.uuid()])
        )
        self.assertEqual((first["output"], second["output"]), ("foundations_stages/" + rows.uuid(), None))
        self.assertIn("def load(size)", run["sources"]["test_stages.load"])
        context = results["stage_contexts"][rows.uuid()]
        self.assertEqual((context["stage_output"], context["has_stage_output"]), ([0, 1, 2, 3], True))
        self.assertEqual(results["stage_contexts"][second["uuid"]]["stage_log"][0]["key"], "score")

    def test_two_runs_are_told_in_one_file(self):
        with tracked_job() as job:
            self.graph().run()
            self.graph().run()
            self.assertEqual(len(self.told(job)), 2)
            self.assertEqual([line[0] for line in job.lines].count("a"), 1)

    def test_a_stage_that_fails_fails_the_job_and_is_told(self):
        (fail_stage,) = self.stages(fail)
        with tracked_job() as job:
            with self.assertRaises(KeyError):
                fail_stage(3).run()
            (run,) = self.told(job)
        (one,) = run["stages"]
        self.assertEqual((one["state"], one["error"]["type"]), ("failed", "KeyError"))
        self.assertIn("in fail", one["error"]["traceback"])

    def test_what_cannot_be_kept_does_not_fail_the_job(self):
        (echo,) = self.stages(nested)
        with tracked_job(), self.printed() as lines:
            echo(1).stage(lambda x: (x for x in ())).persist().run()
        self.assertIn("the result of stage <lambda> is not kept: it is a generator", lines[0])


class Fetching(Case):
    def fake(self, state="completed"):
        load_stage, train_stage = self.stages(load, train)
        with tracked_job() as job:
            rows = load_stage(4).persist()
            last = train_stage(rows, 2) if state == "completed" else rows.stage(fail)
            try:
                last.run()
            except KeyError:
                pass
            files = {}
            for key, path in job.artifacts.items():
                with open(path, "rb") as file:
                    files["GET /jobs/j1/artifacts/" + key.replace("/", "%2F")] = file.read()
        line = support.job(state=state, project="default", artifacts=[{"key": "foundations_stages.json"}])
        routes = {"GET /jobs/j1": line, "GET /jobs": {"jobs": [line]}, **files}
        return rows, last, self.enter(FakeTransport(routes))

    def test_results_come_from_the_job_s_artifacts(self):
        rows, last, _ = self.fake()
        results = foundations.Deployment("j1").fetch_job_results()
        self.assertEqual(results["stage_contexts"][rows.uuid()]["stage_output"], [0, 1, 2, 3])
        self.assertEqual(results["provenance"]["stage_hierarchy"][last.uuid()]["parents"], [rows.uuid()])
        self.assertEqual(results["global_stage_context"], {"error_information": None})

    def test_a_job_that_failed_raises_what_its_stage_raised(self):
        self.fake("failed")
        with self.assertRaisesRegex(_errors.RemoteException, "stage fail of job j1: KeyError"):
            foundations.Deployment("j1").fetch_job_results()

    def test_a_job_without_stages(self):
        with FakeTransport({"GET /jobs/j1": support.job()}):
            with self.assertRaises(foundations.NotFoundError):
                foundations.Deployment("j1").fetch_job_results()
        with FakeTransport({"GET /jobs/j1": support.job(state="failed")}):
            with self.assertRaisesRegex(_errors.RemoteException, "job j1 has failed"):
                foundations.Deployment("j1").fetch_job_results()

    def test_the_reader(self):
        rows, last, _ = self.fake()
        with foundations.JobPersister.load_archiver_fetch() as fetch:
            reader = foundations.ResultReader(fetch)
        self.assertEqual(reader.get_unstructured_results("j1", [rows.uuid(), last.uuid()]), [[0, 1, 2, 3], None])
        self.assertIn("def train", reader.get_source_code(last.uuid()))
        self.assertIsNone(reader.get_error_information("j1"))
        if pandas is None:
            with self.assertRaises(foundations.MissingPackageError):
                reader.get_results()
            self.skipTest("pandas is not installed: the tables were not looked at")
        self.assertEqual(list(reader.get_results()["score"])[1], 12)
        self.assertEqual(list(reader.get_job_information()["stage_name"]), ["load", "train"])


DRIVER = """\
import foundations
from project_code import model

print("driver")

def scale(rows, rate):
    return [row * rate for row in rows]

class Scaler:
    def __init__(self, by):
        self.by = by

load = foundations.create_stage(model.load)
first = load(3)
first.run()

def later(rows, scaler):
    return sum(rows) * scaler.by

last = foundations.create_stage(later)(foundations.create_stage(scale)(load(4), foundations.Hyperparameter("rate")), Scaler(10))
job = last.run(params_dict={"rate": 2})
print("driver goes on", job.job_name())
raise SystemExit("not in the job")
"""


class Carried(Case):
    """A driver that submits; what the program `fnode` is given is run as a job would run it."""

    def setUp(self):
        super().setUp()
        self.write("project_code/__init__.py", "")
        self.write("project_code/model.py", "def load(size):\n    print('load', size)\n    return list(range(size))\n")
        program = self.write(
            "bin/fnode",
            "#!{}\nimport json, os, shutil, sys\nplace = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))\n"
            "number = len([n for n in os.listdir(place) if n.startswith('job-')])\n"
            "words = sys.argv[1:]\ndirectory = words[words.index('--') - 1]\n"
            "shutil.copytree(directory, os.path.join(place, 'job-%d' % number), ignore=shutil.ignore_patterns('job-*', 'bin'))\n"
            "json.dump(words, open(os.path.join(place, 'job-%d' % number, 'words.json'), 'w'))\n"
            "print(json.dumps({{'id': 'job-%d' % number}}))\n".format(sys.executable),
        )
        os.chmod(program, 0o755)
        self.program = program

    def drive(self, text, name="driver.py"):
        return self.script(text, name=name, FNODE_BIN=self.program, FOUNDATIONS_COMMAND_LINE="True")

    def run_job(self, number):
        with open(self.path("job-{}".format(number), "words.json")) as file:
            words = json.load(file)
        command = words[words.index("--") + 1 :]
        done = subprocess.run(
            [sys.executable, *command[1:]],
            cwd=self.path("job-{}".format(number)),
            env=dict(
                os.environ, PYTHONPATH=support.SDK, FNODE_JOB_ID="j", FNODE_TRACK=self.path("track"), FNODE_RECORDED="1"
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=support.TIMEOUT_S,
        )
        return words, done

    def test_each_run_is_a_job_that_does_what_the_driver_described(self):
        done = self.drive(DRIVER.replace("sum(rows) * scaler.by", "print('result', sum(rows) * scaler.by)"))
        self.assertIn("driver goes on job-1", done.stdout, done.stderr)
        self.assertIn("Job 'job-1' deployed in project 'default'.", done.stdout + done.stderr)
        self.assertEqual([name for name in os.listdir(self.dir) if name.endswith(".pkl")], [])
        words, done = self.run_job(0)
        self.assertEqual((done.returncode, done.stdout.splitlines()), (0, ["load 3"]), done.stderr)
        self.assertEqual(words[words.index("--project") + 1], "default")
        words, done = self.run_job(1)
        self.assertEqual(
            (done.returncode, done.stdout.splitlines()), (0, ["driver", "load 4", "result 120"]), done.stderr
        )
        self.assertEqual([name for name in os.listdir(self.path("job-1")) if name.endswith(".pkl")], [])

    def test_end_points_of_the_project_s_configurations_go_with_the_graph(self):
        ends = "results_config:\n  archive_end_point: {}\ncache_config:\n  end_point: {}\n"
        text = "import foundations\nimport project_code.model\n"
        text += "foundations.create_stage(project_code.model.load)(5).run()\n"
        self.write("config/execution/default.config.yaml", ends.format("s3://lab/plain", "gs://lab/cache"))
        self.assertEqual(self.drive(text).returncode, 0)
        words, _ = self.run_job(0)
        self.assertEqual(words[words.index("--archive") + 1], "s3://lab/plain")
        self.assertEqual(words[words.index("--cache-store") + 1], "gs://lab/cache")
        self.write("config/submission/scheduler.config.yaml", "results_config: {archive_end_point: 's3://lab/far'}\n")
        self.assertEqual(self.drive(text).returncode, 0)
        words, _ = self.run_job(1)
        self.assertEqual(words[words.index("--archive") + 1], "s3://lab/far")
        self.assertEqual(words[words.index("--cache-store") + 1], "gs://lab/cache")

    def test_a_driver_below_the_root_finds_its_modules(self):
        text = "import foundations\nimport model\nfoundations.create_stage(model.load)(5).run()\n"
        done = self.drive(text, name="project_code/driver.py")
        self.assertEqual(done.returncode, 0, done.stderr)
        _, done = self.run_job(0)
        self.assertEqual((done.returncode, done.stdout), (0, "load 5\n"), done.stderr)

    def test_stage_functions_that_replace_their_functions(self):
        self.write("steps.py", "import foundations\n@foundations.create_stage\ndef one():\n    return 1\n")
        done = self.drive(
            "import foundations\nimport steps\n@foundations.create_stage\ndef shown(x):\n    print('shown', x)\n"
            "first = shown(0).run()\nwhile __name__ != '__main__' and not first.is_job_complete():\n    pass\n"
            "foundations.submit(command='other.py')\nshown(steps.one()).run()\n"
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        _, done = self.run_job(2)
        self.assertEqual([line for line in done.stdout.splitlines() if "Found" not in line], ["shown 1"], done.stderr)
        self.assertFalse(os.path.exists(self.path("job-3")))

    def test_a_function_that_the_driver_made_aware_of_its_context_is_so_in_the_job(self):
        self.write("steps.py", "def plain(context, x):\n    print(context.name, x)\n")
        done = self.drive(
            "import foundations, steps\nfoundations.create_stage(foundations.context_aware(steps.plain))(7).run()\n"
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        _, done = self.run_job(0)
        self.assertEqual((done.returncode, done.stdout), (0, "plain 7\n"), done.stderr)

    def test_what_is_defined_at_a_prompt_is_said(self):
        code = "import sys\nsys.modules['cloudpickle'] = None\nimport foundations\ndef f():\n    return 1\n"
        code += "foundations.create_stage(f)().run()\n"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=dict(os.environ, PYTHONPATH=support.SDK, FNODE_BIN=self.program),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            universal_newlines=True,
            timeout=support.TIMEOUT_S,
        )
        self.assertIn("f is defined at a prompt, in a notebook, or in a script outside of", done.stderr)

    def test_what_cannot_be_carried_is_said(self):
        hidden = "import sys\nsys.modules['cloudpickle'] = None\n"
        text = hidden + "import foundations\nfoundations.create_stage(lambda x: x)(1).run()\n"
        done = self.drive(text)
        self.assertIn("SubmissionError: the stages cannot be carried into a job", done.stderr)
        self.assertIn("define functions at the top of a module, or install cloudpickle", done.stderr)
        text = "import foundations, threading\nfoundations.create_stage(len)(threading.Lock()).run()\n"
        self.assertIn("cannot be carried into a job (TypeError: cannot pickle", self.drive(text).stderr)

    def test_a_failed_submission_leaves_nothing(self):
        os.unlink(self.program)
        done = self.drive(DRIVER)
        self.assertIn("SubmissionError: cannot run", done.stderr)
        self.assertEqual([name for name in os.listdir(self.dir) if name.endswith(".pkl")], [])

    def test_a_script_started_by_hand_submits_although_it_is_a_job(self):
        from foundations import _ending
        from foundations._stages import run

        with tracked_job():
            self.assertTrue(run.belongs_here())
            before = (_ending._execution, _ending._pid)
            _ending._execution, _ending._pid = True, os.getpid()
            try:
                self.assertFalse(run.belongs_here())
            finally:
                _ending._execution, _ending._pid = before
        self.assertFalse(run.belongs_here())


class Serialized(Case):
    def test_a_job_can_be_written_down(self):
        job = foundations.Job(foundations.create_stage(pow)(2, foundations.Hyperparameter("power")), power=5)
        again = foundations.Job.deserialize(job.serialize())
        self.assertEqual((again.run(), again.kwargs(), again.uuid()), (32, {"power": 5}, job.uuid()))
        self.assertFalse(carry.is_reading())


class Staged(Case):
    def test_modules_are_imported_as_stages(self):
        self.write("numbers_project/__init__.py", "LIMIT = 3\ndef one():\n    return 1\n")
        self.write("numbers_project/deep.py", "class Box:\n    def __init__(self, x):\n        self.x = x\n")
        done = self.script(
            "import foundations\nimport staged_numbers_project\nimport staged_numbers_project.deep as deep\n"
            "from staged_numbers_project import one, LIMIT\n"
            "print(one().run_same_process(), LIMIT, deep.Box(one()).x.run_same_process(), type(one).__name__)\n"
            "import numbers_project\nprint(numbers_project.one())\n"
            "try:\n    import staged_nothing\nexcept ImportError as error:\n    print(error)\n",
            FOUNDATIONS_COMMAND_LINE="True",
        )
        self.assertEqual(
            done.stdout.splitlines(), ["1 3 1 StageFunction", "1", "No module named 'nothing'"], done.stderr
        )


if __name__ == "__main__":
    unittest.main()
