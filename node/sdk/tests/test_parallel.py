"""Stages of one graph at the same time on several nodes: real nodes on this machine, each with processors of its own.

Stages that must run at once wait for each other, by files; what ran where and when is read from the graph's record.
"""

import json
import os
import signal
import sys
import textwrap
import time
import unittest

import support
import test_projects

import foundations
from foundations import _client

# Stages of all tests: `place` is a directory that every node sees.
STAGES = '''
import os, time
import foundations

DEADLINE_S = {deadline}


def note(place, name):
    with open(os.path.join(place, name), "a") as file:
        file.write(os.environ["FNODE_NODE"] + "\\n")


def wait_for(place, *names):
    until = time.monotonic() + DEADLINE_S
    while not all(os.path.exists(os.path.join(place, name)) for name in names):
        if time.monotonic() > until:
            raise TimeoutError("nobody has made " + " ".join(names))
        time.sleep(0.01)


class Model:
    def __init__(self, rows):
        self.rows = rows


def load(size):
    return list(range(size))


def meet(rows, place, number, of):
    print("meets", number)
    note(place, "met-%d" % number)
    wait_for(place, *("met-%d" % one for one in range(of)))
    foundations.log_metric("met", number)
    foundations.log_param("param_%d" % number, foundations.load_parameters(log_parameters=False).get("seed"))
    foundations.set_tag("tag_%d" % number, os.environ.get("SECRET_ISH", ""))
    with open("file-%d.txt" % number, "w") as file:
        file.write("number %d of %s" % (number, os.environ["FNODE_JOB_ID"]))
    foundations.save_artifact("file-%d.txt" % number)
    return Model([row * number for row in rows])


def variables(place, of):
    note(place, os.environ["FNODE_NODE"])
    wait_for(place, "two", "three")
    return [os.environ["TOKEN"], os.environ["SEED"]]


def big(place, number):
    note(place, "big-%d" % number)
    wait_for(place, "big-0", "big-1")
    return bytes(70 << 20)


def size(content):
    return len(content)


def total(*models):
    return sum(sum(model.rows) for model in models)


def add(number, place=None):
    if place:
        note(place, "added")
    return number + 1


def fail(place):
    wait_for(place, "hangs")
    raise KeyError("what failed")


def hang(place, *rows):
    note(place, "hangs")
    wait_for(place, "never")


def generator(x):
    return (number for number in range(x))


def listed(numbers, x):
    return list(numbers) + [x]


def once(place, x):
    note(place, "once")
    with open(os.path.join(place, "once")) as file:
        if len(file.read().split()) == 1:
            wait_for(place, "never")
    return x


def hold(place, x):
    note(place, "held")
    wait_for(place, "go")
    return x


def draw(place, x):
    note(place, "drawn")
    return x, os.urandom(8).hex()


def equal(*drawn):
    return list(drawn)
'''.format(deadline=support.TIMEOUT_S)

CONFIG = """
parallel_stages: true
worker:
  environment:
    SECRET_ISH: told
    PYTHONPATH: {}
"""


class Parallel(test_projects.Nodes):
    # Names of the nodes, and the processors of each.
    NODES = ("one", "two", "three")
    CPUS = "1"

    def setUp(self):
        super().setUp()
        # A node that is killed shall stay dead, as a machine does.
        os.environ["FNODE_RESPAWN"] = "0"
        start = ("start", "--detach", "--listen", "127.0.0.1:0", "--api", "0", "--no-mdns", "--cpus", self.CPUS)
        self.fnode(*start, "--name", self.NODES[0])
        self.addCleanup(self.fnode, "shutdown", "--jobs")
        self.homes = {self.NODES[0]: os.environ["FNODE_HOME"]}
        for name in self.NODES[1:]:
            self.homes[name] = self.path(name)
            self.fnode(*start, "--home", self.homes[name], "--name", name, "--join", "-", given=self.fnode("invite"))
            self.addCleanup(self.shut, name)
        self.place = self.path("place")
        os.mkdir(self.place)
        self.write("project/stages.py", STAGES)
        self.write("project/job.config.yaml", CONFIG.format(json.dumps(support.SDK)))
        self.write("project/foundations_job_parameters.json", '{"seed": 7}')
        os.chdir(self.path("project"))

    def shut(self, name):
        if name in self.homes:
            self.fnode("--home", self.homes[name], "shutdown", "--jobs")

    def kill(self, name):
        """As if its machine had gone: daemon, runner and jobs of a node, all of them ours."""
        home = self.homes.pop(name)
        for pid in [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]:
            try:
                with open("/proc/{}/cmdline".format(pid), "rb") as file:
                    words = file.read()
                with open("/proc/{}/environ".format(pid), "rb") as file:
                    words += b"\0" + file.read()
                if home.encode() in words.split(b"\0") or b"FNODE_HOME=" + home.encode() in words.split(b"\0"):
                    os.kill(pid, signal.SIGKILL)
            except (OSError, ProcessLookupError):
                continue

    def drive(self, text, ends="completed"):
        """Runs a driver by hand, and waits for its job; the job's id."""
        job = self.begin(text)
        self.assertEqual(self.end(job), ends, self.fnode("logs", job))
        return job

    def begin(self, text):
        text = "import foundations, stages\nstage = foundations.create_stage\nplace = {!r}\n".format(self.place) + text
        self.write("project/driver.py", textwrap.dedent(text))
        self.run_script("driver.py", path=os.getcwd())
        (job,) = [line["id"] for line in _client.default().jobs(project="default")]
        return job

    def end(self, job):
        until = time.monotonic() + 2 * support.TIMEOUT_S
        while time.monotonic() < until:
            state = _client.default().wait(job, 30)["state"]
            if state in ("completed", "failed", "stopped"):
                return state
        return "unfinished: " + self.fnode("job", "explain", job)

    def until(self, what, told):
        """Waits until `what` is true."""
        until = time.monotonic() + support.TIMEOUT_S
        while not what():
            self.assertLess(time.monotonic(), until, told())
            time.sleep(0.02)

    def noted(self, name):
        try:
            return self.read("place", name).split()
        except FileNotFoundError:
            return []

    def stages(self, job, name=None):
        (run,) = json.loads(self.fnode("job", "graph", job, "--json"))["runs"]
        return [one for one in run["stages"] if name in (None, one["name"])]

    def parts(self, job):
        return list(_client.default().parts(job))

    def check_over(self, job):
        """Every part has ended, and nothing of the graph is left in the cache."""
        ended = ("completed", "failed", "stopped")
        self.until(lambda: all(part["state"] in ended for part in self.parts(job)), lambda: str(self.parts(job)))
        self.assertEqual(json.loads(self.fnode("cache", "list", "--json"))["values"], [])


class OnThreeNodes(Parallel):
    MEETING = """
        rows = stage(stages.load)(4)
        met = [stage(stages.meet)(rows, place, number, 3) for number in range(3)]
        last = stage(stages.total)(*met)
        last.persist()
    """

    def test_stages_of_one_level_run_at_once_on_every_node(self):
        job = self.drive(textwrap.dedent(self.MEETING) + "met[0].persist()\nmet[1].persist()\nlast.run()\n")
        sys.path.insert(0, os.getcwd())
        self.addCleanup(sys.modules.pop, "stages", None)
        self.addCleanup(sys.path.remove, os.getcwd())
        met = self.stages(job, "meet")
        self.assertEqual({one["node"] for one in met}, {"one", "two", "three"})
        begins = [one["started_unix_ms"] for one in met]
        ends = [one["started_unix_ms"] + one["seconds"] * 1000 for one in met]
        self.assertLess(max(begins), min(ends), "they did not overlap")
        self.assertEqual([one["job"] is None for one in met].count(True), 1)
        # All that they tell is the graph's: its job is the only one that is seen.
        deployment = foundations.Deployment(job)
        details = deployment.get_job_details()
        results = deployment.fetch_job_results()["stage_contexts"]
        outputs = [results[one["uuid"]]["stage_output"] for one in met[:2]]
        self.assertEqual([output.rows for output in outputs], [[0, 0, 0, 0], [0, 1, 2, 3]])
        self.assertIn(18, [one["stage_output"] for one in results.values()])
        self.assertEqual(sorted(self.fnode("logs", job).splitlines()), ["meets 0", "meets 1", "meets 2"])
        self.assertEqual([details["parameters"]["param_{}".format(number)] for number in range(3)], [7, 7, 7])
        self.assertLessEqual({"tag_0", "tag_1", "tag_2"}, set(details["tags"]))
        for number in range(3):
            kept = b"".join(_client.default().artifact(job, "file-{}.txt".format(number)))
            self.assertEqual(kept.decode(), "number {} of {}".format(number, job))
        self.assertEqual([line["id"] for line in _client.default().jobs(project="default")], [job])
        parts = json.loads(self.fnode("jobs", "--parent", job, "--json"))["jobs"]
        self.assertEqual({part["id"] for part in parts}, {one["job"] for one in met} - {None})
        self.assertEqual({part["parent"] for part in parts}, {job})
        self.assertEqual(len(json.loads(self.fnode("jobs", "--parts", "--json"))["jobs"]), 3)
        table = self.fnode("job", "graph", job)
        self.assertTrue(all(name in table for name in self.NODES), table)
        self.assertIn("on two", self.fnode("job", "graph", job, "--dot"))
        self.check_over(job)
        # What was deleted takes its parts along.
        self.fnode("job", "delete", job)
        self.assertEqual(json.loads(self.fnode("jobs", "--parts", "--all", "--json"))["jobs"], [])

    def test_a_driver_that_is_deployed_and_defines_its_stages_itself(self):
        text = STAGES + "place = {!r}\nstage = foundations.create_stage\n".format(self.place)
        text += "class stages:\n    load, meet, total = load, meet, total\n"
        text += textwrap.dedent(self.MEETING).replace("stages.", "") + "last.run()\n"
        self.write("project/driver.py", text)
        with self.printed():
            job = foundations.deploy("default", env="local", entrypoint="driver.py")
        self.assertEqual(job.get_job_status(), "completed", job.get_job_logs())
        self.assertEqual({one["node"] for one in self.stages(job.job_name(), "meet")}, {"one", "two", "three"})
        contexts = job.fetch_job_results()["stage_contexts"].values()
        self.assertEqual([one["stage_output"] for one in contexts if one["stage_name"] == "total"], [18])
        self.check_over(job.job_name())

    def test_secrets_and_variables_reach_the_parts(self):
        self.fnode("secret", "set", "TOKEN", given="hidden")
        self.fnode("pause")
        text = "import foundations, stages\nplace = {!r}\nstage = foundations.create_stage\n".format(self.place)
        text += "last = stage(stages.equal)(*[stage(stages.variables)(place, 2) for _ in range(2)])\n"
        text += "last.persist()\nlast.run()\n"
        self.write("project/driver.py", text)
        words = ("--json", "--project", "default", "--secret", "TOKEN", "--env", "SEED=7")
        words += ("--env", "PYTHONPATH=" + support.SDK, "--", "python", "driver.py")
        job = json.loads(self.fnode("submit", *words))["id"]
        self.assertEqual(self.end(job), "completed", self.fnode("logs", job))
        self.assertEqual({one["node"] for one in self.stages(job, "variables")}, {"two", "three"})
        contexts = foundations.Deployment(job).fetch_job_results()["stage_contexts"].values()
        self.assertIn([["hidden", "7"]] * 2, [one["stage_output"] for one in contexts])

    def test_results_that_are_found_are_found_in_parts_too(self):
        text = """
            drawn = [stage(stages.draw)(place, number) for number in range(3)]
            last = stage(stages.equal)(*drawn).enable_caching()
            last.persist()
            last.run()
        """
        first = self.drive(textwrap.dedent(text))
        self.assertEqual(sorted(one["hit"] for one in self.stages(first)), [False] * 4)
        self.fnode("job", "delete", first)
        again = self.drive(textwrap.dedent(text))
        self.assertEqual([one["hit"] for one in self.stages(again)], [True] * 4)
        self.assertEqual(len(self.noted("drawn")), 3)
        self.assertEqual(len(json.loads(self.fnode("cache", "list", "--json"))["values"]), 4)

    def test_a_stage_that_fails_ends_the_graph_and_its_other_stages(self):
        text = """
            hangs = [stage(stages.hang)(place) for _ in range(2)]
            stage(stages.equal)(*hangs, stage(stages.fail)(place)).run()
        """
        job = self.drive(textwrap.dedent(text), ends="failed")
        (failed,) = self.stages(job, "fail")
        self.assertEqual((failed["state"], failed["error"]["exception"]), ("failed", "'what failed'"))
        self.assertIn("KeyError: 'what failed'", self.fnode("logs", job))
        with self.assertRaisesRegex(foundations.RemoteException, "stage fail of job .*: KeyError: 'what failed'"):
            foundations.Deployment(job).fetch_job_results()
        self.check_over(job)
        self.assertEqual(sorted(part["state"] for part in self.parts(job)), ["failed", "stopped"])
        hangs = self.stages(job, "hang")
        self.assertEqual({one["state"] for one in hangs} - {"not run"}, {"stopped"}, hangs)
        self.assertEqual({bool(one["node"]) for one in hangs if one["state"] == "stopped"}, {True}, hangs)
        self.assertEqual([one["state"] for one in self.stages(job, "equal")], ["not run"])

    def test_a_graph_that_is_stopped_stops_its_parts(self):
        job = self.begin("stage(stages.equal)(*[stage(stages.hang)(place) for _ in range(3)]).run()\n")
        self.until(lambda: len(self.noted("hangs")) == 3, lambda: self.fnode("jobs", "--parts", "--all"))

        def seen():
            if '"foundations_stages.json"' not in self.fnode("job", "show", job, "--json"):
                return "nothing told yet"
            return {(one["state"], one["node"]) for one in self.stages(job, "hang")}

        self.until(lambda: seen() == {("running", name) for name in self.NODES}, lambda: str(seen()))
        self.fnode("stop", job)
        self.assertEqual(self.end(job), "stopped")
        self.until(
            lambda: [part["state"] for part in self.parts(job)] == ["stopped"] * 2, lambda: str(self.parts(job))
        )
        self.assertEqual(seen(), {("stopped", name) for name in self.NODES})
        self.assertTrue(all(one["seconds"] >= 0 for one in self.stages(job, "hang")), self.stages(job))
        self.assertEqual([one["state"] for one in self.stages(job, "equal")], ["not run"])

    def test_what_cannot_be_pickled_stays_in_the_graph_s_job(self):
        text = """
            made = stage(stages.generator)(3)
            both = [stage(stages.listed)(made, 7), stage(stages.add)(1), stage(stages.add)(2)]
            last = stage(stages.equal)(*both)
            last.persist()
            last.run()
        """
        job = self.drive(textwrap.dedent(text))
        (last,) = self.stages(job, "equal")
        results = foundations.Deployment(job).fetch_job_results()["stage_contexts"]
        self.assertEqual(results[last["uuid"]]["stage_output"], [[0, 1, 2, 7], 2, 3])

    def test_a_node_that_is_killed_while_it_computes_a_stage(self):
        text = """
            held, once = stage(stages.hold)(place, 1), stage(stages.once)(place, 2)
            last = stage(stages.equal)(held, once)
            last.persist()
            last.run()
        """
        job = self.begin(textwrap.dedent(text))
        self.until(lambda: self.noted("once") and self.noted("held"), lambda: self.fnode("jobs", "--parts", "--all"))
        (held,), (node,) = self.noted("held"), self.noted("once")
        self.assertNotEqual(held, node)
        # This node submits, is free, and ranks before others that are: it runs the graph's job itself.
        self.assertEqual(held, "one")
        self.kill(node)
        self.until(lambda: len(self.noted("once")) == 2, lambda: self.fnode("jobs", "--parts", "--all"))
        self.write("place/go", "")
        self.assertEqual(self.end(job), "completed", self.fnode("logs", job))
        (once,) = self.stages(job, "once")
        self.assertEqual(once["node"], self.noted("once")[1])
        attempts = _client.default().job(once["job"])["attempts"]
        self.assertEqual([attempt["node"]["name"] for attempt in attempts], self.noted("once"))
        self.assertEqual(attempts[0]["ending"]["reason"], "node_down")
        (last,) = self.stages(job, "equal")
        results = foundations.Deployment(job).fetch_job_results()["stage_contexts"]
        self.assertEqual(results[last["uuid"]]["stage_output"], [1, 2])


class WithRoom(Parallel):
    CPUS = "2"

    def test_a_stage_runs_where_what_it_takes_lies(self):
        text = """
            big = [stage(stages.big)(place, number) for number in range(2)]
            last = stage(stages.equal)(*[stage(stages.size)(one) for one in big])
            last.persist()
            last.run()
        """
        job = self.drive(textwrap.dedent(text))
        at = {one["uuid"]: one["node"] for one in self.stages(job, "big")}
        self.assertEqual(len(set(at.values())), 2)
        # One more than the graph's job brings to itself.
        sizes = self.stages(job, "size")
        self.assertEqual([one["node"] for one in sizes], [at[one["needs"][0]] for one in sizes])
        self.assertEqual([one["job"] is None for one in sizes].count(True), 1)


class OnOneProcessor(Parallel):
    NODES = ("one",)

    def test_a_graph_takes_its_parts_back(self):
        text = """
            numbers = [stage(stages.add)(number, place) for number in range(4)]
            numbers = [stage(stages.add)(number, place) for number in numbers]
            last = stage(stages.equal)(*numbers)
            last.persist()
            last.run()
        """
        job = self.drive(textwrap.dedent(text))
        self.assertEqual({one["node"] for one in self.stages(job)}, {"one"})
        (last,) = self.stages(job, "equal")
        results = foundations.Deployment(job).fetch_job_results()["stage_contexts"]
        self.assertEqual(results[last["uuid"]]["stage_output"], [2, 3, 4, 5])
        self.assertEqual(len(self.noted("added")), 8, "each ran once")
        self.check_over(job)


class AfterAKill(Parallel):
    """This node only submits: the graph's job, and what it has told, go on when the node that runs it is gone."""

    NODES = ("one", "two", "three", "four")

    def test_a_graph_whose_node_is_killed_finds_what_was_done(self):
        self.fnode("pause")
        text = """
            drawn = stage(stages.draw)(place, 1)
            held = [stage(stages.hold)(place, drawn) for _ in range(2)]
            last = stage(stages.equal)(*held)
            last.persist()
            last.run()
        """
        job = self.begin(textwrap.dedent(text))
        self.until(lambda: len(self.noted("held")) == 2, lambda: self.fnode("jobs", "--parts", "--all"))
        conductor = _client.default().job(job)["node"]["name"]
        self.kill(conductor)
        again = [name for name in self.homes if name != "one"]

        def runs_again():
            node = _client.default().job(job).get("node") or {}
            return node.get("name") in again and len(self.noted("held")) >= 3

        self.until(runs_again, lambda: self.fnode("jobs", "--parts", "--all"))
        self.write("place/go", "")
        self.assertEqual(self.end(job), "completed", self.fnode("logs", job))
        # The part went on, and what it was given is what the graph goes on with.
        self.assertEqual((len(self.noted("held")), len(self.noted("drawn"))), (3, 1))
        (last,) = self.stages(job, "equal")
        results = foundations.Deployment(job).fetch_job_results()["stage_contexts"]
        one, other = results[last["uuid"]]["stage_output"]
        self.assertEqual(one, other)
        self.assertEqual([part["state"] for part in self.parts(job)], ["completed"])


# Its tests are those of the classes above.
del Parallel


if __name__ == "__main__":
    unittest.main()
