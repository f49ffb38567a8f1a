"""The package as a whole: its names, its import, its facades, its examples."""

import ast
import builtins
import contextlib
import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import unittest

import support

import foundations
from foundations import _errors, testing

PUBLIC = """
    ConfigurationError DaemonError DaemonTimeoutError Deployment Directory DiscreteHyperparameter File
    FloatingHyperparameter
    FoundationsError Hyperparameter IntegerHyperparameter Job JobPersister JobStatus MissingPackageError NoDaemonError
    NotAvailableYetError NotFoundError ParametersError RefusedError RemoteException ResultReader SubmissionError
    SyncableDirectory
    TrackError UnknownProjectError __version__ archive_jobs artifacts cache cancel_queued_jobs config_manager
    context_aware create_stage create_syncable_directory deploy flatten_parameter_dictionary generate_random_parameters
    get_metrics_for_all_jobs get_queued_jobs global_state job_parameters load_parameters log_manager log_metric
    log_metrics log_param log_params parameters prototype save_artifact set_environment set_job_resources
    set_project_name set_tag set_tensorboard_logdir submit testing track_production_metrics wait_on_deployment_set
"""
LATER = "DiscreteHyperparameter FloatingHyperparameter IntegerHyperparameter track_production_metrics"


def modules():
    found = [foundations]
    for info in pkgutil.walk_packages(foundations.__path__, "foundations."):
        if not info.name.endswith("__main__"):
            found.append(importlib.import_module(info.name))
    return found


class Names(support.Case):
    def test_all_is_what_we_promise_and_nothing_else(self):
        self.assertEqual(foundations.__all__, sorted(PUBLIC.split()))
        self.assertEqual(dir(foundations), foundations.__all__)

    def test_every_public_name_can_be_had_and_says_what_it_is(self):
        for name in foundations.__all__:
            self.assertTrue(getattr(foundations, name).__doc__, name)

    def test_an_unknown_name_is_an_attribute_error(self):
        with self.assertRaisesRegex(AttributeError, "module 'foundations' has no attribute 'log_metrix'"):
            foundations.log_metrix

    def test_type_checkers_see_the_same_names(self):
        with open(os.path.join(support.SDK, "foundations", "__init__.py")) as file:
            tree = ast.parse(file.read())
        guard = next(node for node in tree.body if isinstance(node, ast.If))
        seen = [alias.name for node in guard.body for alias in node.names]
        self.assertEqual(sorted([*seen, "__version__"]), foundations.__all__)
        self.assertTrue(os.path.exists(os.path.join(support.SDK, "foundations", "py.typed")))

    def test_star_import_works(self):
        names = {}
        exec("from foundations import *", names)
        self.assertIs(names["log_metric"], foundations.log_metric)

    def test_the_version_is_the_binary_s(self):
        with open(os.path.join(support.REPOSITORY, "Cargo.toml")) as file:
            version = re.search(r'^version = "(.*)"$', file.read(), re.MULTILINE).group(1)
        self.assertEqual(foundations.__version__, version)

    def test_functions_have_type_hints_and_tell_a_stranger_what_they_raise(self):
        for name in foundations.__all__:
            value = getattr(foundations, name)
            if callable(value) and not isinstance(value, type) and name not in LATER.split():
                self.assertIn("return", value.__annotations__, name)
                self.assertIn("Example::", value.__doc__, name)

    def test_names_of_later_parts_exist_and_say_so(self):
        for name in LATER.split():
            later = getattr(foundations, name)
            with self.assertRaisesRegex(foundations.NotAvailableYetError, "foundations." + name) as caught:
                later(lambda: 1)
            self.assertNotIn("\n", str(caught.exception))
            self.assertIsInstance(caught.exception, NotImplementedError)
        with self.assertRaises(foundations.NotAvailableYetError):
            foundations.DiscreteHyperparameter.grid_elements()

    def test_the_drawn_tree_of_errors_is_the_real_one(self):
        drawn = re.findall(r"[├└]── (\w+)(?: \((\w+)\))?", _errors.__doc__)
        real = {name: value for name, value in vars(_errors).items() if isinstance(value, type)}
        self.assertEqual({name for name, _ in drawn} | {"FoundationsError"}, set(real))
        for name, builtin in drawn:
            if builtin:
                self.assertTrue(issubclass(real[name], getattr(builtins, builtin)), name)
        self.assertTrue(issubclass(_errors.NotFoundError, _errors.RefusedError))
        self.assertTrue(issubclass(_errors.NoDaemonError, _errors.DaemonError))


class Imports(support.Case):
    def test_the_import_reads_no_heavy_module(self):
        heavy = "typing json logging subprocess socket http.client urllib uuid re pandas numpy asyncio email inspect".split()
        code = (
            "import sys; before = set(sys.modules)\nimport foundations\n"
            "print(sorted((set(sys.modules) - before) & set({!r})))"
        ).format(heavy)
        for job in ({}, {"FNODE_JOB_ID": "j", "FNODE_TRACK": self.path("track")}):
            done = self.isolated(code + "\nimport os; sys.stdout.flush(); os._exit(0)", job)
            self.assertEqual(done.stdout.strip(), "[]", done.stderr)

    def test_it_is_valid_for_the_oldest_python_that_we_promise(self):
        for module in modules():
            with open(module.__file__, encoding="utf-8") as file:
                ast.parse(file.read(), feature_version=(3, 8))

    def test_examples_in_the_docstrings_run(self):
        tried = 0
        for module in modules():
            # Most show what a job does; the facade shows what it says outside of one.
            outside = module.__name__ == "foundations.global_state"
            with contextlib.ExitStack() as stack:
                if not outside:
                    stack.enter_context(testing.tracked_job())
                result = doctest.testmod(module)
            self.assertEqual(result.failed, 0, module.__name__)
            tried += result.attempted
        self.assertGreater(tried, 30)

    def isolated(self, code, job):
        # -S leaves out what this machine's site packages import on their own.
        return subprocess.run(
            [sys.executable, "-S", "-c", code],
            env=dict(os.environ, PYTHONPATH=support.SDK, **job),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=support.TIMEOUT_S,
        )


class Facades(support.Case):
    def test_places_where_users_import_from(self):
        from foundations.artifacts import create_syncable_directory
        from foundations.job_parameters import flatten_parameter_dictionary
        from foundations.parameters.generate_random_parameters import generate_random_parameters
        from foundations.prototype import archive_jobs, cancel_queued_jobs, get_queued_jobs, set_tag

        self.assertIs(create_syncable_directory, foundations.create_syncable_directory)
        self.assertIs(flatten_parameter_dictionary, foundations.flatten_parameter_dictionary)
        self.assertIs(generate_random_parameters, foundations.generate_random_parameters)
        self.assertIs(
            foundations.parameters.generate_random_parameters.generate_random_parameters, generate_random_parameters
        )
        self.assertIs(set_tag, foundations.set_tag)
        from foundations.artifacts.syncable_directory import SyncableDirectory
        from foundations.job_metrics import log_metric
        from foundations.projects import get_metrics_for_all_jobs, set_project_name
        from foundations.submission import submit
        from foundations_contrib.utils import foundations_home

        self.assertEqual(
            (SyncableDirectory, log_metric, get_metrics_for_all_jobs, set_project_name, submit),
            tuple(
                getattr(foundations, name)
                for name in "SyncableDirectory log_metric get_metrics_for_all_jobs set_project_name submit".split()
            ),
        )
        os.environ["FOUNDATIONS_HOME"] = "/lab"
        self.assertEqual(foundations_home(), "/lab")
        self.assertEqual(
            (archive_jobs, cancel_queued_jobs, get_queued_jobs),
            (foundations.archive_jobs, foundations.cancel_queued_jobs, foundations.get_queued_jobs),
        )

    def test_what_is_not_there_yet_can_be_imported_and_says_so_when_used(self):
        import foundations_orbit
        import foundations_production

        for package in (foundations_orbit, foundations_production):
            for name in package.__all__:
                if name == "track_production_metrics":
                    continue
                text = r"^{}\.{} belongs to .*, which fnode does not have yet; ".format(package.__name__, name)
                with self.assertRaisesRegex(foundations.NotAvailableYetError, text):
                    getattr(package, name)("contract")
        self.assertIs(foundations_orbit.track_production_metrics, foundations.track_production_metrics)

    def test_global_state_knows_the_job_and_raises_without_one(self):
        from foundations_contrib.global_state import current_foundations_job, redis_connection

        job = current_foundations_job()
        self.assertFalse(job.is_in_running_job())
        with self.assertRaises(ValueError):
            job.job_id
        self.assertEqual(job.project_name, "default")
        os.environ.update(FNODE_JOB_ID="j7", FNODE_PROJECT="mnist", FNODE_USER="ada")
        self.assertEqual((job.job_id, job.project_name, job.user_name), ("j7", "mnist", "ada"))
        self.assertTrue(job.is_in_running_job())
        with self.assertRaisesRegex(foundations.NotAvailableYetError, "there is no Redis"):
            redis_connection.get("jobs")
        self.assertIs(foundations.global_state.config_manager, foundations.config_manager)

    def test_the_module_runs_the_program_under_the_name_foundations(self):
        program = self.write("fnode", '#!/bin/sh\necho "$0" "$@"\n')
        os.chmod(program, 0o755)
        done = subprocess.run(
            [sys.executable, "-m", "foundations", "submit", "--json"],
            env=dict(os.environ, PYTHONPATH=support.SDK, FNODE_BIN="/bin/echo"),
            stdout=subprocess.PIPE,
            universal_newlines=True,
            timeout=support.TIMEOUT_S,
        )
        self.assertEqual((done.stdout, done.returncode), ("submit --json\n", 0))
        done = subprocess.run(
            [sys.executable, "-m", "foundations"],
            env=dict(os.environ, PYTHONPATH=support.SDK, FNODE_BIN=self.path("nothing")),
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=support.TIMEOUT_S,
        )
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertIn("cannot run", done.stderr)

    def test_loggers_write_as_foundations_did(self):
        with self.printed() as lines:
            foundations.log_manager.get_logger("a").info("hello %d", 1)
            foundations.log_manager.get_logger("a").debug("not shown")
            foundations.config_manager["log_level"] = "ERROR"
            foundations.log_manager.get_logger("a").info("not shown")
            foundations.log_manager.get_logger("a").error("bad")
            foundations.config_manager["log_level"] = "whatever"
            foundations.log_manager.get_logger("a").error("not shown")
        self.assertEqual(lines, ["Foundations INFO: hello 1", "Foundations ERROR: bad"])


if __name__ == "__main__":
    unittest.main()
