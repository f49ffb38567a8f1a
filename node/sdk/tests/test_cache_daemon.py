"""The cache with a daemon: leases, waiting, storing, and a daemon that says no, is silent, or dies."""

import os
import subprocess
import sys
import threading
import unittest

import support
from test_cache import Cached

import foundations
from foundations._cache import container, daemon, keeping, store
from foundations.testing import FakeCacheDaemon


class Daemon(Cached):
    def setUp(self):
        super().setUp()
        self.home = self.path("home", ".fnode")
        self.addCleanup(daemon.forget)
        self.addCleanup(keeping.flush, support.TIMEOUT_S)

    def words(self, fake):
        return [word for word, _ in fake.requests]

    def packed(self, value):
        return container.pack(value, []).joined()

    def test_a_miss_is_asked_for_computed_and_stored(self):
        work = self.counted()
        with FakeCacheDaemon(self.home) as fake:
            work(1)
            self.assertTrue(keeping.flush(support.TIMEOUT_S))
            work(1)
            self.assertEqual((self.ran, self.words(fake), fake.leased()), ([1], ["ask", "store"], []))
        (ask, stored) = [content for _, content in fake.requests]
        self.assertEqual((ask["key"], ask["function"]), (work.key(1), work._keys.name))
        self.assertEqual((stored["key"], stored["file"], len(stored["parts_digest"])), (work.key(1), None, 64))
        self.assertTrue(stored["lease"] and stored["user"])

    def test_large_values_go_through_a_file(self):
        work = self.counted(lambda x: b"x" * x)
        with FakeCacheDaemon(self.home) as fake:
            self.assertEqual(len(work(300_000)), 300_000)
            keeping.flush(support.TIMEOUT_S)
            self.assertEqual((len(work(300_000)), self.ran), (300_000, [300_000]))
        stored = fake.stored[work.key(300_000)]
        self.assertEqual(stored["inline"], None)
        self.assertRegex(stored["file"], "^incoming/[0-9a-f]{32}$")
        self.assertEqual(os.listdir(self.path("home", ".fnode", "cache", "incoming")), [])

    def test_a_value_on_its_way_is_found(self):
        for size in (10, 300_000):
            work = self.counted(lambda x: [b"x" * x])
            with FakeCacheDaemon(self.home) as fake:
                fake.slow = threading.Event()
                work(size).append("the caller's own")
                self.assertEqual([len(work(size)), self.ran.count(size)], [1, 1])
                self.assertEqual(self.words(fake).count("ask"), 1)

    def test_what_another_node_has_is_not_computed(self):
        work = self.counted()
        with FakeCacheDaemon(self.home) as fake:
            fake.elsewhere[work.key(1)] = self.packed("theirs")
            self.assertEqual([work(1), work(1), self.ran, self.words(fake)], ["theirs", "theirs", [], ["ask"]])

    def test_what_another_node_computes_is_waited_for_and_taken_over_when_it_fails(self):
        for theirs, expected, ran in (("theirs", "theirs", []), (None, (1, 1), [1])):
            work = self.counted(version=theirs)
            self.ran.clear()
            with FakeCacheDaemon(self.home) as fake:
                fake.lease_elsewhere(work.key(1))
                results = []
                thread = threading.Thread(target=lambda: results.append(work(1)))
                thread.start()
                self.assertTrue(fake.wait_for(lambda fake: fake.requests))
                fake.finish_elsewhere(work.key(1), None if theirs is None else self.packed(theirs))
                thread.join(support.TIMEOUT_S)
                self.assertEqual((results, self.ran), ([expected], ran))

    def test_busy_is_asked_again(self):
        work = self.counted()
        with FakeCacheDaemon(self.home) as fake:
            before = foundations._cache.cached._WAIT_MS
            foundations._cache.cached._WAIT_MS = 1
            self.addCleanup(setattr, foundations._cache.cached, "_WAIT_MS", before)
            fake.lease_elsewhere(work.key(1))
            thread = threading.Thread(target=work, args=(1,))
            thread.start()
            self.assertTrue(fake.wait_for(lambda fake: len(fake.requests) >= 3))
            fake.finish_elsewhere(work.key(1), self.packed("theirs"))
            thread.join(support.TIMEOUT_S)
            self.assertEqual((self.ran, set(self.words(fake))), ([], {"ask"}))

    def test_what_is_waited_for_in_a_circle_is_computed_alone(self):
        work = self.counted()
        with FakeCacheDaemon(self.home) as fake:
            # This process has the lease, as one has who is asked for by somebody it waits for.
            fake._leases[work.key(1)] = (self.connection_of(fake), "held")
            self.assertEqual((work(1), self.ran), ((1, 1), [1]))
            keeping.flush(support.TIMEOUT_S)
            self.assertIsNone(fake.stored[work.key(1)]["lease"])

    def connection_of(self, fake):
        daemon.connection().request({"drop": {"key": "0" * 64, "lease": "none"}}, support.TIMEOUT_S)
        return fake._connections[0]

    def test_an_error_is_said_once_and_the_value_is_kept_here(self):
        work = self.counted()
        with FakeCacheDaemon(self.home) as fake, self.printed() as lines:
            fake.error = {"code": "full", "message": "the disk is full"}
            work(1)
            work(2)
            self.assertEqual((work(1), self.ran), ((1, 1), [1, 2]))
        self.assertEqual(lines, ["Foundations WARNING: the node's cache does not answer: the disk is full"])

    def test_a_daemon_that_dies_at_a_question_or_while_storing_loses_nothing(self):
        for word in ("ask", "store"):
            for size in (10, 300_000):
                work = self.counted(lambda x: [b"x" * x], version=(word, size))
                self.ran.clear()
                with FakeCacheDaemon(self.home) as fake:
                    fake.dies_on = word
                    work(size)
                    self.assertTrue(keeping.flush(support.TIMEOUT_S))
                    self.assertEqual((len(work(size)), self.ran), (1, [size]), (word, size))
                self.assertIsNotNone(store.read(work.key(size)))

    def test_no_socket_and_a_socket_that_nobody_listens_on(self):
        work = self.counted()
        work(1)
        with FakeCacheDaemon(self.home) as fake:
            pass
        self.write("home/.fnode/cache.sock", "")
        work(2)
        self.assertEqual((self.ran, fake.requests), ([1, 2], []))
        self.assertEqual((work(1), work(2), self.ran), ((1, 1), (2, 1), [1, 2]))

    def test_a_lease_is_given_back_when_nothing_can_be_kept(self):
        def fail(x):
            raise ValueError(x)

        with FakeCacheDaemon(self.home) as fake:
            with self.assertRaises(ValueError):
                self.counted(fail)(1)
            with self.printed():
                self.counted(lambda x: threading.Lock(), version=2)(1)
            self.assertEqual((self.words(fake), fake.leased()), (["ask", "drop"] * 2, []))

    def test_forgetting_purges_everywhere(self):
        work = self.counted()
        with FakeCacheDaemon(self.home) as fake:
            work(1)
            work.forget(1)
            self.assertEqual(fake.stored, {})
            work(1)
        self.assertEqual((self.ran, self.words(fake)), ([1, 1], ["ask", "store", "purge", "ask", "store"]))

    def test_the_end_of_a_process_waits_until_its_values_are_kept(self):
        code = "import foundations\n@foundations.cache\ndef f(x):\n    return x\nf(1)\nprint('returned', flush=True)\n"
        path = self.write("child.py", code)
        with FakeCacheDaemon(self.home) as fake:
            fake.slow = threading.Event()
            child = self.child(path)
            self.assertEqual(child.stdout.readline(), "returned\n")
            self.assertTrue(fake.wait_for(lambda fake: "store" in self.words(fake)))
            self.assertIsNone(child.poll())
            fake.slow.set()
            self.assertEqual(child.wait(support.TIMEOUT_S), 0)
            self.assertEqual(len(fake.stored), 1)

    def test_a_process_that_is_killed_lets_the_next_one_compute(self):
        code = (
            "import foundations, sys\n@foundations.cache(ignore=['hang'])\ndef f(x, hang):\n    print('ran', flush=True)\n"
            "    if hang:\n        sys.stdin.read()\n    return x\nf(1, len(sys.argv) > 1)\n"
        )
        path = self.write("child.py", code)
        with FakeCacheDaemon(self.home) as fake:
            first = self.child(path, "hang")
            self.assertEqual(first.stdout.readline(), "ran\n")
            second = self.child(path)
            self.assertTrue(fake.wait_for(lambda fake: len(fake.requests) == 2))
            first.kill()
            self.assertEqual(second.stdout.readline(), "ran\n")
            self.assertEqual(second.wait(support.TIMEOUT_S), 0)
            self.assertEqual(self.child(path).communicate(timeout=support.TIMEOUT_S)[0], "")

    def test_a_forked_child_has_a_connection_of_its_own_and_stores_before_it_ends(self):
        work = self.counted()
        with FakeCacheDaemon(self.home) as fake:
            work(1)
            keeping.flush(support.TIMEOUT_S)
            child = os.fork()
            if child == 0:
                # Nothing of the test runner's may run in here.
                status = 1
                try:
                    work(2)
                    status = 0
                finally:
                    os._exit(status)
            self.assertEqual(os.waitpid(child, 0)[1], 0)
            self.assertIn(work.key(2), fake.stored)
            work(3)
            keeping.flush(support.TIMEOUT_S)
            self.assertEqual(self.ran, [1, 3])
            self.assertEqual(len(fake.stored), 3)

    def child(self, path, *words):
        child = subprocess.Popen(
            [sys.executable, path, *words],
            env=dict(os.environ, PYTHONPATH=support.SDK),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        self.addCleanup(child.stdout.close)
        self.addCleanup(child.stdin.close)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        return child


if __name__ == "__main__":
    unittest.main()
