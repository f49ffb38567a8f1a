"""Execution mode: plain scripts, started as a user starts them, and a real HTTP server where the daemon would be."""

import json
import os
import shutil
import signal
import subprocess
import sys
import unittest

import support

import foundations
from foundations import _record


class Execution(support.Case):
    def setUp(self):
        super().setUp()
        self.home = os.environ["FNODE_HOME"]
        self.track = self.path("track")
        self.refuse = None
        self.daemon = self.enter(support.Daemon(self.home, self.answer))

    def answer(self, method, path, body, headers):
        if self.refuse:
            return self.refuse
        self.assertEqual((method, path), ("POST", "/runs"))
        return 200, {"job": "run-1", "track": self.track, "artifacts_dir": self.path("artifacts")}

    def runs(self):
        return [request[2] for request in self.daemon.requests]

    def lines(self):
        if not os.path.exists(self.track):
            return []
        with open(self.track, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def last(self, word):
        return [line[1] for line in self.lines() if line[0] == word]


class Runs(Execution):
    def test_a_plain_script_is_a_job_by_one_request(self):
        done = self.script(
            "import foundations, os\nfoundations.log_metric('m', 1)\nprint(foundations.global_state"
            ".current_foundations_job().job_id, os.environ['FNODE_PROJECT'])\n",
            arguments=["--rate", "0.1"],
        )
        project = os.path.basename(self.dir)
        self.assertEqual((done.stdout, done.stderr, done.returncode), ("run-1 {}\n".format(project), "", 0))
        (run,) = self.runs()
        self.assertEqual((run["project"], run["directory"]), (project, self.dir))
        self.assertEqual(run["command"], [sys.executable, self.path("script.py"), "--rate", "0.1"])
        self.assertEqual(run["record"]["python_version"], sys.version.split()[0])
        self.assertGreater(run["pid"], 1)
        self.assertNotIn("job_id", run)
        self.assertEqual([line[0] for line in self.lines()], ["m", "r", "x"])
        self.assertEqual(self.last("x"), [0])

    def test_names_come_from_the_environment(self):
        self.script("import foundations\n", PROJECT_NAME="older", FOUNDATIONS_JOB_ID="mine")
        self.script("import foundations\n", PROJECT_NAME="older", FOUNDATIONS_PROJECT_NAME="newer")
        self.assertEqual([run["project"] for run in self.runs()], ["older", "newer"])
        self.assertEqual(self.runs()[0]["job_id"], "mine")

    def test_the_project_that_the_script_names_after_its_import(self):
        for call, project in (
            ("foundations.set_project_name('my project')", "my project"),
            ("from foundations import set_project_name as s, set_project_name\nset_project_name(project_name='a')", "a"),
            ("if __name__ == '__main__':\n    foundations.set_project_name()", "default"),
        ):
            before = len(self.runs())
            done = self.script("import foundations, os\n{}\nprint(os.environ['FNODE_PROJECT'])\n".format(call))
            self.assertEqual((done.stdout, done.stderr), (project + "\n", ""))
            self.assertEqual(self.runs()[before]["project"], project)
        done = self.script("import foundations\nfoundations.set_project_name('b')\n", FOUNDATIONS_PROJECT_NAME="c")
        self.assertEqual((self.runs()[-1]["project"], done.stdout), ("b", ""))

    def test_a_project_that_cannot_be_read_from_the_script_is_told_to_come_too_late(self):
        here = os.path.basename(self.dir)
        for call in ("set_project_name('a' + 'b')", "set_project_name('ab') or foundations.set_project_name('c')"):
            done = self.script("import foundations\nfoundations.{}\n".format(call))
            self.assertEqual(self.runs()[-1]["project"], here)
            self.assertIn("this script is a job of project `{}` since it imported foundations; to have it in `ab`".format(here), done.stdout)

    def test_exit_codes(self):
        for text, code, written in (
            ("", 0, 0),
            ("import sys; sys.exit()", 0, 0),
            ("import sys; sys.exit(3)", 3, 3),
            ("exit(4)", 4, 4),
            ("quit()", 0, 0),
            ("import sys; sys.exit('why')", 1, 1),
            ("import sys; sys.exit(True)", 1, 1),
            ("import sys; sys.exit(256 + 7)", 7, 7),
            ("raise ValueError('x')", 1, 1),
            ("import sys\ntry: sys.exit(3)\nexcept SystemExit as e:\n    e.code = 5\n    raise", 5, 5),
            # A program that handles the exit has not ended with its code.
            ("import sys\ntry: sys.exit(3)\nexcept SystemExit as e: assert e.code == 3", 0, 0),
            ("import argparse; argparse.ArgumentParser().parse_args(['--no'])", 2, 2),
        ):
            if os.path.exists(self.track):
                os.remove(self.track)
            done = self.script("import foundations\n" + text)
            self.assertEqual((done.returncode, self.last("x")), (code, [written]), text + done.stderr)

    def test_an_uncaught_exception_is_kept_and_still_printed(self):
        done = self.script("import foundations\ndef fail():\n    raise ValueError('what ü')\nfail()\n")
        self.assertEqual(done.returncode, 1)
        self.assertIn("ValueError: what ü", done.stderr)
        (error,) = self.last("e")
        self.assertEqual((error["type"], error["exception"]), ("ValueError", "ValueError: what ü"))
        self.assertEqual(len(error["traceback"]), 2)
        self.assertIn("in fail", error["traceback"][1])
        self.assertEqual([line[0] for line in self.lines()], ["e", "r", "x"])

    def test_a_very_long_traceback_is_cut(self):
        self.script("import foundations\ndef f(n):\n    return g(n + 1)\ndef g(n):\n    return f(n + 1)\nf(0)\n")
        self.script("import foundations\nclass E(Exception):\n    def __str__(self): raise E\nraise E\n")
        self.script("import foundations\nraise ValueError('x' * 100000)\n")
        deep, odd, long = self.last("e")
        self.assertEqual((deep["type"], len(deep["traceback"])), ("RecursionError", 101))
        self.assertEqual(odd["type"], "E")
        self.assertEqual(len(long["exception"]), 4096)

    def test_a_hook_that_a_program_had_is_called_and_one_that_replaces_ours_is_noticed(self):
        done = self.script(
            "import sys\nsys.excepthook = lambda *e: print('mine')\nimport foundations\nraise ValueError\n"
        )
        self.assertEqual(done.stdout, "mine\n")
        done = self.script("import sys, foundations\nsys.excepthook = lambda *e: print('other')\nraise KeyError('k')\n")
        self.assertEqual(done.stdout, "other\n")
        self.assertEqual([error["type"] for error in self.last("e")], ["ValueError", "KeyError"])
        self.assertEqual(self.last("x"), [1, 1])

    def test_ctrl_c(self):
        done = self.script(
            "import foundations, os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time; time.sleep(60)\n"
        )
        self.assertEqual((done.returncode, done.stderr.splitlines()[-1]), (-signal.SIGINT, "KeyboardInterrupt"))
        self.assertEqual((self.last("x"), self.last("e")[0]["type"]), ([130], "KeyboardInterrupt"))

    def test_ctrl_c_cuts_nothing_off_that_ends_after_us(self):
        done = self.script(
            "import atexit, os, signal\natexit.register(lambda: print('last'))\nimport foundations\n"
            "atexit.register(lambda: print(eval('\"evaluated\"')))\nprint('first')\nos.kill(os.getpid(), signal.SIGINT)\n"
        )
        self.assertEqual((done.stdout, done.returncode), ("first\nevaluated\nlast\n", -signal.SIGINT))
        self.assertEqual(self.last("x"), [130])

    def test_an_interrupt_that_the_script_catches_is_its_own(self):
        done = self.script(
            "import foundations, os, signal, sys\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n"
            "except KeyboardInterrupt:\n    sys.exit(3)\n"
        )
        self.assertEqual((done.returncode, self.last("x")), (3, [3]))

    def test_children_belong_to_the_same_job_and_do_not_end_it(self):
        self.write("child.py", "import foundations; foundations.log_metric('child', 1)\n")
        done = self.script(
            "import foundations, os, subprocess, sys\n"
            "subprocess.run([sys.executable, 'child.py'], check=True)\n"
            "if os.fork() == 0:\n    foundations.log_metric('fork', 1)\n    sys.exit(9)\n"
            "os.wait()\nfoundations.log_metric('parent', 1)\n"
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(len(self.runs()), 1)
        self.assertEqual([line[0] for line in self.lines()], ["m", "m", "m", "r", "x"])
        self.assertEqual(self.last("m"), ["child", "fork", "parent"])
        self.assertEqual(self.last("x"), [0])

    def test_metrics_at_the_end_come_before_the_end(self):
        self.script("import foundations, atexit\natexit.register(lambda: foundations.log_metric('late', 1))\n")
        self.assertEqual([line[0] for line in self.lines()], ["m", "r", "x"])


class Untracked(Execution):
    def assertUntracked(self, done, out=""):
        self.assertEqual((done.returncode, done.stdout, done.stderr, self.runs(), self.lines()), (0, out, "", [], []))

    def test_where_execution_mode_is_off(self):
        text = "import foundations\n"
        self.assertUntracked(self.script(text, FOUNDATIONS_COMMAND_LINE="True"))
        self.assertUntracked(self.script(text, FNODE_JOB_ID="j", FNODE_TRACK=None))
        self.assertUntracked(self.started("-m", "script"))
        self.assertUntracked(self.started("-c", text))
        self.assertUntracked(self.started("-", input=text))

    def test_notebooks_and_prompts(self):
        self.assertUntracked(self.script("import sys; sys.modules['ipykernel'] = sys\nimport foundations\n"))
        self.assertUntracked(self.script("import builtins; builtins.__IPYTHON__ = True\nimport foundations\n"))

    def test_programs_that_pip_installs(self):
        tool = self.write("bin/tool", "import foundations\n")
        environment = self.environment()
        done = subprocess.run(
            [sys.executable, tool],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=support.TIMEOUT_S,
        )
        self.assertUntracked(done)

    def test_in_a_job_nothing_is_asked_and_the_end_is_only_recorded(self):
        done = self.script("import foundations, sys\nsys.exit(3)\n", FNODE_JOB_ID="j", FNODE_TRACK=self.track)
        self.assertEqual((done.returncode, self.runs()), (3, []))
        self.assertEqual([line[0] for line in self.lines()], ["r"])
        self.assertNotIn("git_commit", self.last("r")[0])

    def environment(self):
        environment = dict(os.environ, PYTHONPATH=support.SDK, PYTHONDONTWRITEBYTECODE="1")
        del environment["FOUNDATIONS_COMMAND_LINE"]
        return environment

    def started(self, *words, **more):
        self.write("script.py", "import foundations\n")
        if "input" not in more:
            more["stdin"] = subprocess.DEVNULL
        return subprocess.run(
            [sys.executable, *words],
            env=self.environment(),
            cwd=self.dir,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=support.TIMEOUT_S,
            **more,
        )


class NoDaemon(support.Case):
    TEXT = (
        "import foundations\nfoundations.log_metric('m', 1)\nfoundations.set_tag('t')\nfoundations.log_param('p', 1)\n"
        "print('done')\n"
    )

    def assertOneWarning(self, done, what):
        lines = done.stdout.splitlines()
        self.assertEqual((done.returncode, done.stderr, lines[1:]), (0, "", ["done"]), done)
        self.assertTrue(lines[0].startswith("Foundations WARNING: " + what), lines[0])
        self.assertTrue(lines[0].endswith(" This script runs untracked."), lines[0])

    def test_one_warning_and_the_script_runs(self):
        self.assertOneWarning(self.script(self.TEXT), "Cannot currently find Atlas server. Start Atlas server with")

    def test_a_daemon_that_refuses_is_one_warning_too(self):
        def refuse(method, path, body, headers):
            return 400, {"error": {"code": "bad_input", "message": "no such project name", "hint": "choose another"}}

        with support.Daemon(os.environ["FNODE_HOME"], refuse):
            self.assertOneWarning(self.script(self.TEXT), "no such project name; choose another.")

    def test_a_place_that_is_refused_costs_the_script_that_place_alone(self):
        begun = []

        def refuse_archives(method, path, body, headers):
            if path != "/runs":
                return 200, {}
            begun.append(json.loads(body))
            if "archive" in begun[-1]:
                return 400, {"error": {"code": "bad_input", "message": "FNODE_ARCHIVE is wrong", "hint": "write s3://"}}
            folder = self.path("told")
            os.makedirs(folder, exist_ok=True)
            return 200, {"job": "j", "track": os.path.join(folder, "track"), "artifacts_dir": folder}

        text = self.TEXT + "import os; print(os.environ.get('FNODE_ARCHIVE'), os.environ['FNODE_CACHE_STORE'])\n"
        ends = "results_config:\n  archive_end_point: {}\ncache_config:\n  end_point: s3://lab/x\n"
        self.write("config/execution/default.config.yaml", ends.format("ftp://q"))
        with support.Daemon(os.environ["FNODE_HOME"], refuse_archives):
            done = self.script(text)
            self.write("config/execution/default.config.yaml", ends.format("5"))
            wrong = self.script(self.TEXT)
        warning = "Foundations WARNING: FNODE_ARCHIVE is wrong; write s3://. What this script leaves stays in this cluster."
        self.assertEqual(done.stdout.splitlines(), [warning, "done", "None s3://lab/x"], done.stderr)
        self.assertEqual([run.get("archive") for run in begun[:2]], ["ftp://q", None])
        self.assertEqual([run["cache_store"] for run in begun[:2]], ["s3://lab/x"] * 2)
        self.assertIn("default.config.yaml:2: results_config's `archive_end_point` is 5; write a text.", wrong.stdout)
        self.assertNotIn("untracked", wrong.stdout)

    def test_so_is_an_answer_that_is_not_understood(self):
        with support.Daemon(os.environ["FNODE_HOME"], lambda *request: (200, {"what": 1})):
            self.assertOneWarning(self.script(self.TEXT), "")

    def test_so_is_a_working_directory_that_is_gone(self):
        text = "import os\nos.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n" + self.TEXT
        self.assertOneWarning(self.script(text), "")


class Records(support.Case):
    def test_packages_are_named_with_their_versions(self):
        os.makedirs("lib/some_package-1.2.dist-info")
        os.makedirs("lib/Old-0.1-py3.8.egg-info")
        os.makedirs("lib/no_version.dist-info")
        os.makedirs("later/some_package-9.dist-info")
        path = sys.path[:]
        sys.path[:] = ["lib", "later", "nothing"]
        try:
            self.assertEqual(_record.packages(), ["old==0.1", "some-package==1.2"])
        finally:
            sys.path[:] = path

    def test_passwords_of_remotes_are_left_out(self):
        for remote, wanted in (
            ("https://user:token@host/a/b.git", "https://host/a/b.git"),
            ("https://host/a@b.git", "https://host/a@b.git"),
            ("git@host:a/b.git", "git@host:a/b.git"),
        ):
            self.assertEqual(_record.without_password(remote), wanted)

    @unittest.skipUnless(shutil.which("git"), "git is not installed")
    def test_the_state_of_a_checkout(self):
        def git(*words):
            subprocess.run(
                ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=support.TIMEOUT_S,
            )

        self.assertEqual(_record.git(self.dir), {})
        git("init", "-b", "work")
        self.assertEqual(_record.git(self.dir), {}, "no commit yet")
        self.write("a.py", "one\n")
        git("add", "-A")
        git("commit", "-m", "first")
        git("remote", "add", "origin", "https://me:secret@host/x.git")
        os.mkdir("sub")
        found = _record.git(self.path("sub"))
        self.assertEqual(len(found["git_commit"]), 40)
        self.assertEqual((found["git_branch"], found["git_remote"]), ("work", "https://host/x.git"))
        self.assertNotIn("git_diff", found)
        self.write("a.py", "two\n" * 50_000)
        found = _record.git(self.dir)
        self.assertIn("-one\n+two", found["git_diff"])
        self.assertEqual((len(found["git_diff"]), found["git_diff_truncated"]), (_record.DIFF_MAX, True))

    @unittest.skipUnless(shutil.which("git"), "git is not installed")
    def test_git_that_takes_long_is_not_waited_for(self):
        os.mkdir(".git")
        slow = self.write("bin/git", "#!/bin/sh\nexec sleep 600\n")
        os.chmod(slow, 0o755)
        os.environ["PATH"] = self.path("bin") + os.pathsep + os.environ["PATH"]
        self.assertEqual(_record.git(self.dir), {})

    def test_a_record_that_is_too_long_is_shortened_and_not_lost(self):
        lines = []
        for count in (10, 320):
            folder = self.path("site{}".format(count))
            os.mkdir(folder)
            for at in range(count):
                os.mknod(os.path.join(folder, "{}-{}.dist-info".format("p" * 200 + str(at), at)))
            track = self.path("track{}".format(count))
            self.script(
                "import sys; sys.path.append({!r})\nimport foundations\n".format(folder),
                FNODE_JOB_ID="j",
                FNODE_TRACK=track,
            )
            lines.append(json.loads(self.read(track)))
        self.assertGreaterEqual(len(lines[0][1]["packages"]), 10)
        self.assertNotIn("packages", lines[1][1])
        self.assertIn("python_version", lines[1][1])

    def test_the_module_foundations_is_the_one_under_test(self):
        self.assertTrue(foundations.__file__.startswith(support.SDK))


if __name__ == "__main__":
    unittest.main()
