"""Job objects, the queue, and data frames."""

import datetime
import math
import os
import unittest

import support

import foundations
from foundations import _frames, _jobs
from foundations.testing import FakeTransport, refusal

try:
    import pandas
except ImportError:
    pandas = None


class BrokenOff(list):
    """Pieces after which the connection ends without the last chunk."""

    def __iter__(self):
        yield from super().__iter__()
        raise ConnectionResetError


class Status(support.Case):
    def test_words_of_each_generation(self):
        for state, scheduler, true, local in (
            ("queued", "queued", "queued", "Queued"),
            ("preparing", "queued", "pending", "Queued"),
            ("running", "running", "running", "Running"),
            ("completed", "completed", "completed", "Completed"),
            ("failed", "completed", "failed", "Error"),
            ("stopped", "completed", "failed", "Error"),
        ):
            with FakeTransport({"GET /jobs/j1": support.job(state=state)}):
                job = foundations.Deployment("j1")
                self.assertEqual(str.__str__(job.get_job_status()), scheduler)
                self.assertEqual(job.get_true_job_status(), true)
                self.assertEqual(str.__str__(foundations.Deployment("j1", local=True).get_job_status()), local)
                self.assertEqual(job.is_job_complete(), state in ("completed", "failed", "stopped"))

    def test_an_unknown_job_has_no_status(self):
        with FakeTransport():
            self.assertIsNone(foundations.Deployment("j1").get_job_status())
            self.assertIsNone(foundations.Deployment("j1").get_true_job_status())

    def test_a_status_equals_whatever_its_capitals(self):
        status = foundations.JobStatus("Completed")
        self.assertTrue(status == "completed" and "COMPLETED" == status and not status != "completed")
        self.assertTrue(status != "failed" and status != 1 and status in {"completed": 1})
        self.assertEqual("{}".format(status), "Completed")


class Waiting(support.Case):
    def test_it_returns_at_the_end_and_tells_changes(self):
        api = FakeTransport({"GET /jobs/j1": support.job(state="queued")})
        api.in_turn(
            "GET /jobs/j1/wait", support.job(state="queued"), support.job(state="running"), support.job(state="failed")
        )
        with api, self.printed() as lines:
            foundations.Deployment("j1").wait_for_deployment_to_complete(wait_seconds=7)
        self.assertEqual(
            lines, ["Foundations INFO: Job 'j1' is {}.".format(s) for s in ("queued", "running", "failed")]
        )
        self.assertEqual([request.query for request in api.requests[1:]], [{"timeout_s": "7"}] * 3)

    def test_a_daemon_that_restarts_is_waited_for(self):
        api = FakeTransport()
        api.in_turn(
            "GET /jobs/j1",
            foundations.NoDaemonError("gone"),
            refusal(503, "shutting_down", "it ends"),
            support.job(state="completed"),
        )
        with api, self.printed() as lines:
            foundations.Deployment("j1").wait_for_deployment_to_complete(log_output=False)
        self.assertEqual((lines, len(api.requests)), ([], 3))

    def test_an_unknown_job_is_an_error(self):
        with FakeTransport(), self.assertRaises(foundations.NotFoundError):
            foundations.Deployment("j1").wait_for_deployment_to_complete()

    def test_a_set_of_jobs(self):
        jobs = {"a": foundations.Deployment("j1"), "b": foundations.Deployment("j2")}
        seen = []
        with FakeTransport({"GET /jobs/j1": support.job()}):
            foundations.wait_on_deployment_set(jobs, error_handler=lambda name, error: seen.append((name, type(error))))
            with self.assertRaises(foundations.NotFoundError):
                foundations.wait_on_deployment_set(jobs)
        self.assertEqual(seen, [("b", foundations.NotFoundError)])


class Logs(support.Case):
    def test_a_snapshot(self):
        with FakeTransport({"GET /jobs/j1/log": "a\nü\n".encode() + b"\xff"}):
            self.assertEqual(foundations.Deployment("j1").get_job_logs(), "a\nü\n\ufffd")

    def test_lines_are_streamed_to_the_end_over_attempts_and_restarts(self):
        """A real connection: the first answer breaks off in the middle of a character, the job is run twice."""
        answers = [
            (BrokenOff(["one\ntw\u00fc".encode()[:-1]]), "1.1"),
            (["\u00fc".encode()[1:] + b"\nthree\n"], "1.1"),
            ([b"again"], "1.2"),
        ]
        states = ["running", "running", "completed"]
        asked = []

        def answer(method, path, body, headers):
            if path == "/jobs/j1":
                return 200, support.job(state=states.pop(0))
            asked.append(path.partition("?")[2])
            pieces, attempt = answers.pop(0)
            return 200, pieces, {"fnode-attempt": attempt}

        with support.Daemon(os.environ["FNODE_HOME"], answer):
            lines = list(foundations.Deployment("j1").stream_job_logs())
        self.assertEqual(lines, ["one", "twü", "three", "again"])
        self.assertEqual(
            asked,
            ["follow=1&offset=0", "follow=1&attempt=1.1&offset=7", "follow=1&offset=0&after_attempt=1.1"],
        )


class Results(support.Case):
    def setUp(self):
        super().setUp()
        self.word = support.job(
            state="failed",
            params={"rate": 0.1, "nan": {"f": "nan"}},
            metrics={
                "loss": {"first": 3, "last": 1, "count": 3},
                "inf": {"first": {"f": "inf"}, "last": {"f": "-inf"}},
            },
            tags={"k": "v"},
        )
        self.enter(FakeTransport({"GET /jobs/j1": self.word}))
        self.job = foundations.Deployment("j1")

    def test_a_metric_is_its_first_value(self):
        self.assertEqual(self.job.get_metric("loss"), 3)
        self.assertEqual(self.job.get_metric("inf"), math.inf)
        with self.assertRaises(KeyError) as caught:
            self.job.get_metric("x")
        self.assertEqual(caught.exception.args, ("Metric 'x' does not exist.",))

    def test_a_parameter(self):
        self.assertEqual(self.job.get_param("rate"), 0.1)
        self.assertTrue(math.isnan(self.job.get_param("nan")))
        with self.assertRaises(KeyError) as caught:
            self.job.get_param("x")
        self.assertEqual(caught.exception.args, ("Parameter 'x' does not exist.",))

    def test_details(self):
        details = self.job.get_job_details()
        self.assertEqual(math.isnan(details["parameters"].pop("nan")), True)
        self.assertEqual(
            details,
            {
                "project_name": "mnist",
                "job_id": "j1",
                "user": "ada",
                "status": "failed",
                "start_time": datetime.datetime(2020, 9, 13, 12, 26, 41, 500000),
                "completed_time": datetime.datetime(2020, 9, 13, 12, 26, 49),
                "creation_time": 1600000000.0,
                "tags": ["k"],
                "metrics": {"loss": 1, "inf": -math.inf},
                "parameters": {"rate": 0.1},
            },
        )

    def test_a_job_shows_its_id(self):
        self.assertEqual((self.job.job_name(), repr(self.job)), ("j1", "Deployment('j1')"))


class Queue(support.Case):
    def routes(self):
        return {
            "GET /jobs/wait": support.job("wait", "queued"),
            "GET /jobs/build": support.job("build", "preparing"),
            "GET /jobs/run": support.job("run", "running"),
            "GET /jobs/done": support.job("done", "completed"),
            "GET /jobs/bad": support.job("bad", "failed"),
            "GET /jobs/do": support.job("done", "completed"),
            "POST /jobs/wait/stop": {},
            "POST /jobs/build/stop": {},
            "PATCH /jobs/done/marks": {},
            "PATCH /jobs/bad/marks": {},
        }

    def test_only_jobs_that_wait_are_cancelled(self):
        with FakeTransport(self.routes()) as api:
            done = foundations.cancel_queued_jobs(["wait", "build", "run", "done", "nobody", ""])
        self.assertEqual(done, {"wait": True, "build": True, "run": False, "done": False, "nobody": False, "": False})
        self.assertEqual([r.path for r in api.requests if r.method == "POST"], ["/jobs/wait/stop", "/jobs/build/stop"])

    def test_only_ended_jobs_are_archived(self):
        with FakeTransport(self.routes()) as api:
            done = foundations.archive_jobs(["wait", "run", "done", "bad", "nobody"])
        self.assertEqual(done, {"wait": False, "run": False, "done": True, "bad": True, "nobody": False})
        self.assertEqual([r.json for r in api.requests if r.method == "PATCH"], [{"archived": True}] * 2)

    def test_beginnings_of_ids_name_no_job_here(self):
        with FakeTransport(self.routes()):
            self.assertEqual(foundations.archive_jobs(["do"]), {"do": False})

    def test_a_job_that_changed_meanwhile_is_false(self):
        routes = dict(self.routes(), **{"POST /jobs/wait/stop": refusal(409, "conflict", "it has ended")})
        with FakeTransport(routes):
            self.assertEqual(foundations.cancel_queued_jobs(["wait"]), {"wait": False})

    def test_nothing_and_a_single_string(self):
        self.assertEqual((foundations.cancel_queued_jobs([]), foundations.archive_jobs([])), ({}, {}))
        with self.assertRaisesRegex(TypeError, "give a list of job ids"):
            foundations.cancel_queued_jobs("wait")


class Tables(support.Case):
    PAGES = [
        {
            "jobs": [
                support.job("j3", "queued", params={"rate": 1}),
                support.job("arr", "running", array={"total": 2}),
            ],
            "next": "cursor/1",
        },
        {
            "jobs": [
                support.job(
                    "j1",
                    params={"rate": 2, "depth": 3},
                    input_params={"seed": 7},
                    metrics={"loss": {"last": {"f": "nan"}, "first": 1}},
                    tags={"k": "v"},
                )
            ]
        },
    ]
    MEMBERS = {
        "jobs": [support.job("arr/1", metrics={"loss": {"last": 4, "first": 5}}), support.job("arr/2", "running")]
    }

    def transport(self):
        return FakeTransport({"GET /jobs/arr/members": self.MEMBERS}).in_turn("GET /jobs", *self.PAGES)

    def test_a_row_per_job_over_pages_and_arrays(self):
        with self.transport() as api:
            rows, columns = _frames.table("mnist", include_input_params=True)
        self.assertEqual([row["job_id"] for row in rows], ["j3", "arr/1", "arr/2", "j1"])
        self.assertEqual(
            columns,
            "project_name job_id user status start_time completed_time creation_time tags "
            "rate depth input_param_seed loss tag_k".split(),
        )
        self.assertEqual(
            (rows[0]["start_time"], rows[0]["status"], rows[0]["rate"]), ("No time available", "queued", 1)
        )
        last = rows[3]
        self.assertEqual(
            (last["depth"], last["input_param_seed"], last["tag_k"], last["tags"]), (3, 7, "v", {"k": "v"})
        )
        self.assertTrue(math.isnan(last["loss"]))
        self.assertEqual(last["start_time"], datetime.datetime.fromtimestamp(1600000001.5).isoformat())
        self.assertEqual(api.requests[0].query, {"project": "mnist", "limit": "1000"})
        self.assertEqual(api.requests[-1].query["after"], "cursor/1")

    def test_short_lists_are_completed_job_by_job(self):
        short = support.job("j1")
        for name in ("metrics", "params", "input_params", "artifacts"):
            del short[name]
        whole = support.job("j1", metrics={"loss": {"last": 4, "first": 5}})
        with FakeTransport({"GET /jobs": {"jobs": [short]}, "GET /jobs/j1": whole}):
            rows, _ = _frames.table("mnist", include_input_params=False)
        self.assertEqual(rows[0]["loss"], 4)

    def test_an_unknown_project_is_a_value_error(self):
        with FakeTransport({"GET /jobs": refusal(404, "not_found", "no project p")}):
            with self.assertRaises(ValueError) as caught:
                _frames.table("p", include_input_params=False)
        self.assertEqual(str(caught.exception), "Project `p` does not exist!")

    @unittest.skipIf(pandas, "pandas is installed: its absence cannot be tried")
    def test_without_pandas_the_error_says_which_call_needs_it(self):
        for call in (lambda: foundations.get_metrics_for_all_jobs("mnist"), foundations.get_queued_jobs):
            with self.assertRaisesRegex(foundations.MissingPackageError, "pip install pandas") as caught:
                call()
            self.assertIsInstance(caught.exception, ImportError)

    @unittest.skipUnless(pandas, "pandas is not installed")
    def test_frames(self):
        with self.transport():
            frame = foundations.get_metrics_for_all_jobs("mnist")
        self.assertEqual(list(frame["job_id"]), ["j3", "arr/1", "arr/2", "j1"])
        self.assertEqual(frame["loss"][1], 4)
        with FakeTransport({"GET /jobs": {"jobs": []}}):
            self.assertNotIn("job_id", foundations.get_metrics_for_all_jobs("mnist"))

    @unittest.skipUnless(pandas, "pandas is not installed")
    def test_the_queue_as_a_frame(self):
        array = support.job("arr", "running", array={"total": 2})
        members = {"jobs": [support.job("arr/1", "running"), support.job("arr/2", "preparing")]}
        routes = {"GET /jobs": {"jobs": [support.job("j1", "queued"), array]}, "GET /jobs/arr/members": members}
        with FakeTransport(routes) as api:
            frame = foundations.get_queued_jobs()
        self.assertEqual(list(frame["job_id"]), ["j1", "arr/2"])
        self.assertEqual(list(frame.columns), ["job_id", "queued_time", "project_name", "time_since_queued"])
        self.assertGreater(frame["time_since_queued"][0], 0)
        self.assertEqual(api.requests[0].query["state"], "unfinished")

    def test_times_that_are_not_there(self):
        self.assertIsNone(_jobs._utc(None))


if __name__ == "__main__":
    unittest.main()
