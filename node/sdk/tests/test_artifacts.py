"""Files and directories that a job keeps."""

import os
import unittest

import support

import foundations
from foundations.testing import FakeTransport, refusal, tracked_job


class Artifacts(support.Case):
    def setUp(self):
        super().setUp()
        self.job = self.enter(tracked_job())

    def kept(self):
        return {key: self.read(path) for key, path in self.job.artifacts.items()}

    def test_a_copy_is_kept_under_the_file_s_name(self):
        self.write("out/model.json", "one")
        foundations.save_artifact("out/model.json")
        self.assertEqual(self.job.lines, [["a", "model.json", "model.json", "application/json"]])
        self.write("out/model.json", "changed later")
        self.assertEqual(self.kept(), {"model.json": "one"})

    def test_two_files_of_one_name_do_not_collide(self):
        self.write("a/x.txt", "a")
        self.write("b/x.txt", "b")
        foundations.save_artifact("a/x.txt", key="first")
        foundations.save_artifact("b/x.txt", key="second")
        self.assertEqual(self.kept(), {"first": "a", "second": "b"})
        self.assertEqual([line[2:] for line in self.job.lines], [["x.txt", "text/plain"], ["x-2.txt", "text/plain"]])

    def test_a_second_file_under_a_key_replaces_the_first_with_a_warning(self):
        with self.printed() as lines:
            for epoch in range(3):
                self.write("model", str(epoch))
                foundations.save_artifact("model", key="m")
            self.write("other", "x")
            foundations.save_artifact("other", key="m")
        self.assertEqual(lines, ['Foundations WARNING: Artifact "m" already exists - overwriting.'] * 3)
        self.assertEqual(self.kept(), {"m": "x"})
        self.assertEqual(os.listdir(self.job.artifacts_dir), ["other"])
        self.assertEqual(self.job.lines[0], ["a", "m", "model", None])

    def test_what_cannot_be_kept_is_told(self):
        with self.assertRaises(FileNotFoundError):
            foundations.save_artifact("nothing")
        with self.assertRaisesRegex(IsADirectoryError, "keep one with create_syncable_directory"):
            foundations.save_artifact(".")
        self.assertEqual(self.job.lines, [])

    def test_a_very_long_name_is_shortened(self):
        name = "x" * 250 + ".txt"
        self.write(name, "long")
        foundations.save_artifact(name)
        self.assertEqual(self.kept(), {name: "long"})

    def test_outside_of_a_job_a_warning(self):
        del os.environ["FNODE_TRACK"]
        self.write("x", "")
        with self.printed() as lines:
            foundations.save_artifact("x")
        self.assertEqual(lines, ["Foundations WARNING: Cannot save artifact outside of job."])


class Directories(support.Case):
    def setUp(self):
        super().setUp()
        self.job = self.enter(tracked_job(job_id="me"))

    def in_job(self, *parts):
        return os.path.join(self.job.artifacts_dir, *parts)

    def test_uploads_move_what_is_new_or_changed(self):
        directory = foundations.create_syncable_directory("my files/1", "data")
        self.assertEqual((str(directory), os.fspath(directory)), ("data", "data"))
        self.write("data/a", "1")
        self.write("data/sub/b", "2")
        directory.upload()
        name = self.job.lines[0][2]
        self.assertEqual(self.job.lines, [["s", "my files/1", name]])
        self.assertNotIn("/", name)
        self.assertEqual(self.read(self.in_job(name, "sub", "b")), "2")
        untouched = os.stat(self.in_job(name, "sub", "b")).st_ino
        self.write("data/a", "changed")
        directory.upload()
        self.assertEqual(self.read(self.in_job(name, "a")), "changed")
        self.assertEqual(os.stat(self.in_job(name, "sub", "b")).st_ino, untouched)

    def test_the_same_size_at_another_time_is_a_change(self):
        directory = foundations.create_syncable_directory("k", "data")
        path = self.write("data/a", "1")
        directory.upload()
        self.write("data/a", "2")
        os.utime(path, ns=(1, 1))
        directory.upload()
        self.assertEqual(self.read(self.in_job(self.job.lines[0][2], "a")), "2")

    def test_without_a_path_it_is_temporary(self):
        first, second = (foundations.create_syncable_directory("k") for _ in range(2))
        self.assertTrue(os.path.isdir(str(first)))
        self.assertNotEqual(str(first), str(second))

    def test_what_this_job_has_uploaded_comes_back_at_creation(self):
        self.write("data/sub/a", "1")
        foundations.create_syncable_directory("k", "data").upload()
        again = foundations.create_syncable_directory("k", "again")
        self.assertEqual(self.read(self.path("again", "sub", "a")), "1")
        self.write("data/sub/a", "two")
        foundations.create_syncable_directory("k", "data").upload()
        again.download()
        self.assertEqual(self.read(self.path("again", "sub", "a")), "two")

    def test_another_job_s_files_are_brought_and_what_was_removed_here_is_brought_again(self):
        files = {"synced-k/a": b"A", "synced-k/sub/b": b"B", "other": b"C", "synced-k2/x": b"D"}
        artifacts = [{"key": "k", "filename": name, "size": 1, "content": name} for name in files]
        routes = {"GET /jobs/j1": support.job(artifacts=artifacts)}
        for name, data in files.items():
            routes["GET /jobs/j1/artifacts/" + name.replace("/", "%2F")] = data
        with FakeTransport(routes) as api:
            directory = foundations.create_syncable_directory("k", "data", source_job_id="j1")
            self.assertEqual(self.read("data/a") + self.read("data/sub/b"), "AB")
            self.assertEqual(sorted(os.listdir("data")), ["a", "sub"])
            asked = len(api.requests)
            directory.download()
            self.assertEqual(len(api.requests), asked + 1, "what has not changed is not brought again")
            os.remove("data/a")
            directory.download()
            self.assertEqual(len(api.requests), asked + 3)
        self.assertEqual(self.read("data/a"), "A")

    def test_an_unknown_source_is_an_error(self):
        with FakeTransport(), self.assertRaises(foundations.NotFoundError):
            foundations.create_syncable_directory("k", "data", source_job_id="nobody")

    def test_names_that_leave_the_directory_are_refused(self):
        for name in ("synced-k/../x", "synced-k//etc/x", "synced-k/./x"):
            routes = {"GET /jobs/j1": support.job(artifacts=[{"key": "k", "filename": name, "size": 1}])}
            with FakeTransport(routes), self.assertRaisesRegex(foundations.TrackError, "would leave the directory"):
                foundations.create_syncable_directory("k", "data", source_job_id="j1")

    def test_a_file_that_no_node_has_is_told_and_the_rest_comes(self):
        artifacts = [{"key": "k", "filename": "synced-k/" + name, "size": 1} for name in "ab"]
        routes = {
            "GET /jobs/j1": support.job(artifacts=artifacts),
            "GET /jobs/j1/artifacts/synced-k%2Fa": refusal(404, "not_found", "gone"),
            "GET /jobs/j1/artifacts/synced-k%2Fb": b"B",
        }
        with FakeTransport(routes), self.printed() as lines:
            foundations.create_syncable_directory("k", "data", source_job_id="j1")
        self.assertEqual(lines, ["Foundations WARNING: synced-k/a of job j1 is on no node that can be reached"])
        self.assertEqual(os.listdir("data"), ["b"])

    def test_outside_of_a_job_uploads_warn(self):
        del os.environ["FNODE_TRACK"], os.environ["FNODE_JOB_ID"]
        directory = foundations.create_syncable_directory("k", "data")
        with self.printed() as lines:
            directory.upload()
        self.assertEqual(lines, ["Foundations WARNING: local_job_id required for uploading artifacts"])


class TensorBoard(support.Case):
    def test_the_directory_is_kept_at_the_end_and_the_job_is_tagged(self):
        track, folder = self.path("track"), self.path("artifacts")
        done = self.script(
            "import foundations, os\n"
            "foundations.set_tensorboard_logdir('runs')\n"
            "open('runs/events', 'w').write('e')\n",
            FNODE_TRACK=track,
            FNODE_JOB_ID="j",
            FNODE_ARTIFACTS_DIR=folder,
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        with open(track) as file:
            lines = file.readlines()
        self.assertEqual(lines[:2], ['["t","tf","tf"]\n', '["s","__tensorboard__","synced-__tensorboard__"]\n'])
        self.assertEqual(os.listdir(os.path.join(folder, "synced-__tensorboard__")), ["events"])


if __name__ == "__main__":
    unittest.main()
