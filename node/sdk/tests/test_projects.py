"""Projects of three generations, submitted to a real node and to a cluster of three: needs the program, which `cargo build` makes.

The program is `FNODE_TEST_BIN`, else the newest one in target/. What needs a daemon that tracks jobs is left out, with
the reason printed, where the program has no `/runs` yet.
"""

import glob
import json
import os
import shutil
import subprocess
import sys
import unittest

import support

import foundations
from foundations import _client

PROJECTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "projects")


def program():
    named = os.environ.get("FNODE_TEST_BIN")
    if named:
        return named
    # Not target/doc/fnode, which is a directory of pages.
    found = glob.glob(os.path.join(support.REPOSITORY, "target", "*", "fnode"))
    built = [path for path in found if os.path.isfile(path) and os.access(path, os.X_OK)]
    return max(built, key=os.path.getmtime) if built else None


# Found before a test clears its environment.
PROGRAM = program()


@unittest.skipUnless(PROGRAM, "there is no fnode to try with: cargo build -p node, or set FNODE_TEST_BIN")
class Nodes(support.Case):
    """With the program, for tests that start nodes."""

    def setUp(self):
        super().setUp()
        os.environ["FNODE_BIN"] = PROGRAM
        # The node's jobs find a Python that is this one, and the package as it is here.
        os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]

    def fnode(self, *words, given=""):
        done = subprocess.run(
            [PROGRAM, *words],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=support.TIMEOUT_S,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def run_script(self, name, path=""):
        """Runs a script of the project, with `path` before this package on Python's; returns what it printed."""
        done = subprocess.run(
            [sys.executable, name],
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, (path, support.SDK)))),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=support.TIMEOUT_S,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return [line for line in done.stdout.splitlines() if not line.startswith("Foundations ")]


class Projects(Nodes):
    def setUp(self):
        super().setUp()
        self.fnode("start", "--detach", "--listen", "0", "--api", "0", "--no-mdns", "--name", "one")
        self.addCleanup(self.fnode, "shutdown", "--jobs")

    def tracks(self):
        return "/runs" in self.fnode_paths()

    def fnode_paths(self):
        prefix = _client.API_PREFIX
        return [path.replace(prefix, "") for path in _client.default().request("GET", "/openapi.json")["paths"]]

    def project(self, name):
        """A copy of a project, with this package on the path of its jobs; it is the working directory then."""
        copy = self.path(name)
        shutil.copytree(os.path.join(PROJECTS, name), copy)
        config = os.path.join(copy, "job.config.yaml")
        line = "    PYTHONPATH: {}\n".format(json.dumps(support.SDK))
        text = self.read(config) if os.path.exists(config) else "worker:\n  environment:\n"
        with open(config, "w") as file:
            file.write(text.replace("  environment:\n", "  environment:\n" + line))
        os.chdir(copy)
        return copy

    def test_stages_in_a_driver_that_is_deployed(self):
        self.project("v1_stages")
        with self.printed():
            job = foundations.deploy(env="local", entrypoint="project_code.driver")
        self.assertEqual(job.get_job_status(), "completed", job.get_job_logs())
        if not self.tracks():
            self.skipTest("the daemon does not track yet: metrics and results were not looked at")
        self.assertEqual((job.get_metric("score"), job.get_param("rate")), (22.5, 0.5))
        contexts = job.fetch_job_results()["stage_contexts"].values()
        self.assertEqual([one["stage_name"] for one in contexts], ["load", "train"])
        graph = json.loads(self.fnode("job", "graph", job.job_name(), "--json"))
        self.assertEqual([stage["name"] for stage in graph["runs"][0]["stages"]], ["load", "train"])
        self.assertIn("s1 -> s2;", self.fnode("job", "graph", job.job_name(), "--dot"))

    def test_stages_in_a_driver_that_is_run_by_hand(self):
        self.project("v1_stages")
        lines = self.run_script("project_code/driver.py", path=os.getcwd())
        self.assertEqual(lines, [])
        jobs = list(_client.default().jobs(project="default"))
        self.assertEqual(len(jobs), 1)
        job = foundations.Deployment(jobs[0]["id"])
        job.wait_for_deployment_to_complete(log_output=False)
        self.assertEqual(job.get_job_status(), "completed", job.get_job_logs())
        if not self.tracks():
            self.skipTest("the daemon does not track yet: metrics were not looked at")
        self.assertEqual(job.get_metric("score"), 22.5)

    def test_a_job_finds_what_another_job_and_a_script_have_computed(self):
        self.project("v1_stages")
        text = self.read("v1_stages", "project_code", "driver.py").replace("score.run(", "score.enable_caching().run(")
        self.write("v1_stages/project_code/driver.py", text)
        used = []
        for rate in ("0.5", "0.5", "0.25"):
            self.write("v1_stages/project_code/driver.py", text.replace("0.5", rate))
            with self.printed():
                job = foundations.deploy(env="local", entrypoint="project_code.driver")
            self.assertEqual(job.get_job_status(), "completed", job.get_job_logs())
            if not self.tracks():
                self.skipTest("the daemon does not track yet: hits and misses were not looked at")
            contexts = job.fetch_job_results()["stage_contexts"].values()
            used.append([one["used_cache"] for one in contexts])
            self.assertEqual(job.get_metric("score"), 45 * float(rate))
        self.assertEqual(used, [[False, False], [True, True], [True, False]])
        # By hand, from another directory, with a comment more.
        shutil.copytree(self.path("v1_stages"), self.path("elsewhere"))
        model = self.read("elsewhere", "project_code", "model.py")
        self.write("elsewhere/project_code/model.py", "# A comment.\n" + model)
        self.write(
            "elsewhere/check.py",
            "import foundations\nfrom project_code import model\nload = foundations.cache(model.load)\n"
            "print(load.run((10,), {}).hit, load.run((11,), {}).hit)\n",
        )
        os.chdir(self.path("elsewhere"))
        self.assertEqual(self.run_script("check.py"), ["True False"])

    def test_deploy(self):
        self.project("v2_deploy")
        words = self.run_script("deploy.py")[-1].split()
        self.assertEqual(words[1], "Completed")
        job = foundations.Deployment(words[0])
        self.assertIn("final loss 0.571", job.get_job_logs())
        details = job.get_job_details()
        self.assertEqual(details["project_name"], "v2-deploy")
        if not self.tracks():
            self.skipTest("the daemon does not track yet: metrics, tags and artifacts were not looked at")
        self.assertEqual(
            (job.get_metric("loss"), details["metrics"]["epochs"], details["tags"]), (1.0, 4, ["generation"])
        )
        self.assertEqual((job.get_param("rate"), job.get_param("layers_0_units")), (0.25, 4))

    def test_a_driver_finds_what_lies_beside_it_and_at_the_root(self):
        self.project("v2_beside")
        for entrypoint in ("project_code.driver", "project_code/driver.py"):
            with self.printed():
                job = foundations.deploy(env="cloud", entrypoint=entrypoint)
            job.wait_for_deployment_to_complete(log_output=False)
            self.assertEqual(job.get_true_job_status(), "completed", job.get_job_logs())
            self.assertEqual(job.get_metric("score"), 0.5)

    def test_a_search_below_the_root_with_requirements_that_nobody_can_install(self):
        copy = self.project("v3_below")
        os.chdir("model")
        # Its configurations lie at the root, where the command line would find them.
        shutil.copytree(os.path.join(copy, "config"), "config")
        lines = self.run_script("search.py")
        self.assertEqual([line.split()[0] for line in lines], ["0.25", "0.5"])
        for line in lines:
            job = foundations.Deployment(line.split()[1])
            log = job.get_job_logs()
            self.assertEqual(job.get_true_job_status(), "completed", log)
            self.assertIn("no-such-package==1.15.2", log)
            self.assertRegex(log, "fnode: requirements.txt could not be installed .*; the job goes on with the node's")
            self.assertNotIn("dessa", log)
            self.assertEqual((job.get_metric("best:loss"), job.get_metric("epochs")), (1 - float(line.split()[0]), 3))
            self.assertEqual(job.get_param("sizes_1_0"), 5)

    def test_a_script_that_is_killed_ended_without_telling_how(self):
        self.project("execution")
        del os.environ["FOUNDATIONS_COMMAND_LINE"]
        self.write("execution/killed.py", "import foundations, os\nos.kill(os.getpid(), 9)\n")
        done = subprocess.run([sys.executable, "killed.py"], env=dict(os.environ, PYTHONPATH=support.SDK))
        self.assertEqual(done.returncode, -9)
        (line,) = list(_client.default().jobs(project="execution"))
        job = foundations.Deployment(line["id"])
        job.wait_for_deployment_to_complete(log_output=False)
        self.assertEqual(job.get_true_job_status(), "failed")
        ending = _client.default().job(line["id"])["ending"]
        self.assertEqual((ending["reason"], "exit code" in ending["text"]), ("untold", False))

    def test_a_search_submits_snapshots(self):
        self.project("v3_submit")
        lines = self.run_script("search.py")
        self.assertEqual([line.split()[0] for line in lines], ["0.1", "0.2", "0.3"])
        for line in lines:
            rate, _, status, *log = line.split()
            self.assertEqual((status, log), ("completed", ["rate", rate, "threads", "1"]))
        if not self.tracks():
            self.skipTest("the daemon does not track yet: metrics and files were not looked at")
        job_id = lines[1].split()[1]
        job = foundations.Deployment(job_id)
        self.assertAlmostEqual(job.get_job_details()["metrics"]["score"], 1.0)
        self.assertEqual((job.get_param("optimizer"), job.get_metric("layers")), ("adam", 2))
        with self.printed():
            foundations.create_syncable_directory("checkpoints", "brought", source_job_id=job_id)
        self.assertAlmostEqual(float(self.read("v3_submit", "brought", "last.txt")), 1.0)

    def test_a_plain_script_is_tracked_or_runs_all_the_same(self):
        self.project("execution")
        tracks = self.tracks()
        del os.environ["FOUNDATIONS_COMMAND_LINE"]
        self.assertEqual(self.run_script("train.py"), ["trained"])
        if not tracks:
            self.skipTest("the daemon has no execution mode yet: the job was not looked at")
        (line,) = list(_client.default().jobs(project="execution"))
        details = foundations.Deployment(line["id"]).get_job_details()
        self.assertEqual((details["status"], details["metrics"]), ("completed", {"loss": 0.1}))
        self.assertEqual(details["parameters"]["optimizer_betas_1"], 0.99)

    def test_the_queue_and_the_archive(self):
        self.project("execution")
        with self.printed():
            waiting = foundations.submit(command="train.py", ram=200_000)
            done = foundations.submit(command="train.py")
        done.wait_for_deployment_to_complete(log_output=False)
        ids = [waiting.job_name(), done.job_name(), "nobody"]
        self.assertEqual(foundations.archive_jobs(ids), dict(zip(ids, (False, True, False))))
        self.assertEqual(foundations.cancel_queued_jobs(ids), dict(zip(ids, (True, False, False))))
        waiting.wait_for_deployment_to_complete(log_output=False)
        self.assertEqual(waiting.get_true_job_status(), "failed")


class TwoUsers(Nodes):
    """A team of two: each with a checkout of one project on a node of their own."""

    LAB = """
import foundations

def scaled(x):
    return 3 * x

@foundations.cache
def work(x):
    return [scaled(x)] * 9000

outcome = work.run((7,), {})
print(outcome.value[0], outcome.hit)
"""

    def setUp(self):
        super().setUp()
        self.homes = {"ada": self.path("ada", ".fnode"), "bob": self.path("bob", ".fnode")}
        start = ("start", "--detach", "--listen", "127.0.0.1:0", "--api", "0", "--no-mdns", "--name")
        self.fnode("--home", self.homes["ada"], *start, "desk-of-ada")
        self.addCleanup(self.fnode, "--home", self.homes["ada"], "shutdown", "--jobs")
        ticket = self.fnode("--home", self.homes["ada"], "invite")
        self.fnode("--home", self.homes["bob"], *start, "desk-of-bob", "--join", "-", given=ticket)
        self.addCleanup(self.fnode, "--home", self.homes["bob"], "shutdown", "--jobs")

    def runs(self, user, where, text):
        """What the project prints for a user who runs it from a checkout."""
        self.write(os.path.join(user, where, "lab.py"), text)
        os.environ.update(FNODE_HOME=self.homes[user], FNODE_USER=user, FNODE_PROJECT="vision")
        os.environ["FOUNDATIONS_COMMAND_LINE"] = "True"
        os.chdir(self.path(user, where))
        return self.run_script("lab.py")

    def cached(self, user):
        return json.loads(self.fnode("--home", self.homes[user], "cache", "stats", "--json"))

    def test_what_one_has_computed_the_other_finds_until_one_of_them_edits_it(self):
        self.assertEqual(self.runs("ada", "checkout", self.LAB), ["21 False"])
        # Formatted otherwise, from another directory, on the other node.
        commented = self.LAB.replace("    return 3 * x", "    # Three of them.\n    return (3\n            * x)")
        self.assertEqual(self.runs("bob", os.path.join("src", "deep"), commented), ["21 True"])
        # An edited helper is another call, and what it computes is found by the first one in turn.
        edited = self.LAB.replace("3 * x", "4 * x")
        self.assertEqual(self.runs("bob", os.path.join("src", "deep"), edited), ["28 False"])
        self.assertEqual(self.runs("ada", "checkout", edited), ["28 True"])
        self.assertEqual(self.runs("ada", "checkout", self.LAB), ["21 True"])
        for user in ("ada", "bob"):
            told = self.cached(user)
            self.assertEqual((told["values"], {use["user"] for use in told["uses"]}), (2, {"ada", "bob"}))
            hits = {row["user"]: row["hits"] for row in told["hits"]}
            self.assertEqual((hits, told["silent"]), ({"ada": 2, "bob": 1}, []))
        # Purged by one, gone for both.
        self.fnode("--home", self.homes["bob"], "cache", "purge", "--user", "ada")
        self.assertEqual(self.runs("bob", "other", self.LAB), ["21 False"])


class ProjectsOfACluster(Projects):
    """The same on a node that takes no jobs itself: each of them runs on one of the other two nodes of its cluster."""

    def setUp(self):
        super().setUp()
        start = ("start", "--detach", "--listen", "127.0.0.1:0", "--api", "0", "--no-mdns", "--join", "-")
        for name in ("two", "three"):
            other = ("--home", self.path(name))
            self.fnode(*other, *start, "--name", name, given=self.fnode("invite"))
            self.addCleanup(self.fnode, *other, "shutdown", "--jobs")
        self.fnode("pause")

    def test_a_job_finds_what_another_job_and_a_script_have_computed(self):
        if not os.path.exists(os.path.join(os.environ["FNODE_HOME"], "cache.sock")):
            self.skipTest("nodes do not share cached values yet")
        super().test_a_job_finds_what_another_job_and_a_script_have_computed()

    def tearDown(self):
        nodes = {(line.get("node") or {}).get("name") for line in json.loads(self.fnode("jobs", "--json", "--all"))["jobs"]}
        # A script that was started by hand is where it is.
        others = {"two", "three", None}
        self.assertLessEqual(nodes, others if "script" not in self._testMethodName else others | {"one"})
        super().tearDown()


if __name__ == "__main__":
    unittest.main()
