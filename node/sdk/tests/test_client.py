"""The connection to the daemon: a real HTTP server, on a Unix socket and on loopback."""

import os
import socket
import threading
import unittest

import support

import foundations
from foundations import _client, _home
from foundations.testing import FakeTransport, refusal


def hello(method, path, body, headers):
    return 200, {"method": method, "path": path, "body": body.decode()}


class Sockets(support.Case):
    def setUp(self):
        super().setUp()
        self.home = os.environ["FNODE_HOME"]
        os.makedirs(self.home)

    def test_requests_and_answers_over_the_unix_socket(self):
        with support.Daemon(self.home, hello) as daemon:
            client = _client.Client()
            self.assertEqual(client.request("GET", "/jobs"), {"method": "GET", "path": "/jobs", "body": ""})
            self.assertEqual(client.request("POST", "/runs", {"a": 1})["body"], '{"a": 1}')
            headers = daemon.requests[1][3]
            self.assertEqual((headers["Host"], headers["Content-Type"]), ("localhost", "application/json"))
            self.assertNotIn("Authorization", headers)

    def test_over_loopback_with_the_token(self):
        with support.Daemon(self.home, hello, loopback=True) as daemon:
            self.assertEqual(_client.Client().request("GET", "/node")["path"], "/node")
            self.assertEqual(daemon.requests[0][3]["Authorization"], "Bearer secret-token")

    def test_the_token_is_not_told_to_a_port_whose_daemon_is_gone(self):
        with support.Daemon(self.home, hello, loopback=True) as daemon:
            with open(os.path.join(self.home, "api.json")) as file:
                text = file.read()
            with open(os.path.join(self.home, "api.json"), "w") as file:
                file.write(text.replace('"pid": {}'.format(os.getpid()), '"pid": 999999999'))
            with self.assertRaises(foundations.NoDaemonError):
                _client.Client().request("GET", "/node")
            self.assertEqual(daemon.requests, [])

    def test_the_socket_that_api_json_names_is_used(self):
        other = self.path("other")
        with support.Daemon(other, hello):
            self.write("home/.fnode/api.json", '{"socket": "%s/run/api.sock"}' % other)
            self.assertEqual(_client.Client().request("GET", "/x")["path"], "/x")

    def test_nobody_there_is_said_with_what_to_do(self):
        with self.assertRaises(foundations.NoDaemonError) as caught:
            _client.Client().request("GET", "/jobs")
        self.assertEqual(
            str(caught.exception),
            "Cannot currently find Atlas server. Start Atlas server with `atlas-server start`. "
            "(no fnode daemon answers in {}: fnode start)".format(self.home),
        )
        self.assertIsInstance(caught.exception, ConnectionError)

    def test_refusals_carry_reason_and_hint(self):
        def refuse(method, path, body, headers):
            if path == "/plain":
                return 502, b"not json"
            status = 404 if path == "/jobs/x" else 409
            return status, {"error": {"code": "conflict", "message": "it runs", "hint": "stop it first"}}

        with support.Daemon(self.home, refuse):
            client = _client.Client()
            with self.assertRaises(foundations.RefusedError) as caught:
                client.request("DELETE", "/jobs/1")
            error = caught.exception
            self.assertEqual((error.status, error.code, error.hint), (409, "conflict", "stop it first"))
            self.assertEqual(str(error), "it runs; stop it first")
            with self.assertRaises(foundations.NotFoundError):
                client.job("x")
            with self.assertRaisesRegex(foundations.RefusedError, "answered with status 502; see its log"):
                client.request("GET", "/plain")

    def test_another_program_on_the_port_is_noticed(self):
        with support.Daemon(self.home, hello, version=""):
            with self.assertRaisesRegex(foundations.DaemonError, "is not fnode; another program may have its port"):
                _client.Client().request("GET", "/jobs")

    def test_pieces_of_a_stream_arrive_whole(self):
        pieces = [b"a" * 70000, b"\r\n", "ü".encode()]

        def log(method, path, body, headers):
            return 200, pieces, {"fnode-attempt": "1.1"}

        with support.Daemon(self.home, log) as daemon:
            answer = _client.Client().follow("g/7")
            self.assertEqual(answer.headers["fnode-attempt"], "1.1")
            self.assertEqual(b"".join(answer.chunks), b"".join(pieces))
            self.assertEqual(daemon.requests[0][1], "/jobs/g%2F7/log?follow=1&offset=0")

    def test_an_answer_that_is_not_json_is_told(self):
        with support.Daemon(self.home, lambda *request: (200, b"<html>")):
            with self.assertRaisesRegex(foundations.DaemonError, "gave an answer to /jobs that is not JSON"):
                _client.Client().request("GET", "/jobs")

    def test_line_breaks_do_not_reach_the_wire(self):
        with support.Daemon(self.home, hello):
            with self.assertRaisesRegex(ValueError, "line break"):
                _client.Client().request("GET", "/jobs\r\nX: y")


class BadPeers(support.Case):
    """Another end that does what no daemon does."""

    def answer(self, data, then_close=True):
        """A server that sends `data` to whoever comes, and perhaps goes on waiting."""
        os.makedirs(os.path.join(os.environ["FNODE_HOME"], "run"))
        listener = self.enter(socket.socket(socket.AF_UNIX))
        listener.bind(os.path.join(os.environ["FNODE_HOME"], "run", "api.sock"))
        listener.listen(1)

        def serve():
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(data)
            if then_close:
                connection.close()
            else:
                held.append(connection)

        held = []
        self.addCleanup(lambda: [connection.close() for connection in held])
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        self.addCleanup(thread.join, support.TIMEOUT_S)

    def ask(self, timeout_s=30):
        return _client.Client(timeout_s=timeout_s).request("GET", "/jobs")

    def test_silence_is_a_timeout(self):
        self.answer(b"", then_close=False)
        with self.assertRaisesRegex(foundations.DaemonTimeoutError, "did not answer in 0.05 s") as caught:
            self.ask(timeout_s=0.05)
        self.assertIsInstance(caught.exception, TimeoutError)

    def test_the_end_in_the_middle_is_told(self):
        self.answer(b"HTTP/1.1 200 OK\r\nfnode-version: 0.1.0\r\nContent-Length: 10\r\n\r\n{}")
        with self.assertRaisesRegex(foundations.DaemonError, "closed the connection in the middle of an answer"):
            self.ask()

    def test_what_is_not_http_is_told(self):
        self.answer(b"SSH-2.0-OpenSSH\r\n\r\n")
        with self.assertRaisesRegex(foundations.DaemonError, "does not begin as HTTP does"):
            self.ask()

    def test_an_endless_head_is_refused(self):
        self.answer(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20000)
        with self.assertRaisesRegex(foundations.DaemonError, "does not begin as HTTP does|closed the connection"):
            self.ask()

    def test_a_length_that_is_no_number_is_told(self):
        for head in (b"Content-Length: -1", b"Transfer-Encoding: chunked"):
            with self.subTest(head):
                self.setUp()
                self.answer(b"HTTP/1.1 200 OK\r\nfnode-version: 0.1.0\r\n" + head + b"\r\n\r\nxyz\r\n")
                with self.assertRaisesRegex(foundations.DaemonError, "length is not a number"):
                    self.ask()

    def test_an_answer_without_length_ends_with_the_connection(self):
        self.answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nfnode-version: 0.1.0\r\n\r\n[1]")
        self.assertEqual(self.ask(), [1])


class Homes(support.Case):
    def test_the_named_one_else_the_user_s_else_the_machine_s(self):
        self.assertEqual(_home.homes(), [self.path("home", ".fnode")])
        os.environ["FNODE_HOME"] = "relative"
        self.assertEqual(_home.homes(), [self.path("relative")])
        del os.environ["FNODE_HOME"]
        self.assertEqual(_home.homes(), [self.path("home", ".fnode"), "/var/lib/fnode"])

    def test_a_broken_api_json_is_as_none(self):
        for text in ("{", "[]", '{"addr": 1, "token": null}'):
            self.write("home/.fnode/api.json", text)
            self.assertIsNone(_home.find().loopback())

    def test_the_program_is_named_told_or_found(self):
        os.environ["PATH"] = self.path("bin")
        self.assertIsNone(_home.binary())
        on_path = self.write("bin/fnode", "")
        os.chmod(on_path, 0o755)
        self.assertEqual(_home.binary(), on_path)
        told = self.write("told", "")
        self.write("home/.fnode/api.json", '{"binary": "%s"}' % told)
        self.assertEqual(_home.binary(), on_path, "a file that is no program is passed over")
        os.chmod(told, 0o755)
        self.assertEqual(_home.binary(), told)
        os.environ["FNODE_BIN"] = "/named"
        self.assertEqual(_home.binary(), "/named")


class Fake(support.Case):
    def test_a_table_answers_and_requests_are_remembered(self):
        api = FakeTransport({"GET /jobs/1": lambda request: support.job(request.path[-1:])})
        api.in_turn("POST /jobs/1/stop", {}, refusal(409, "conflict", "it has ended"))
        with api:
            client = _client.default()
            self.assertEqual(client.job("1")["id"], "1")
            client.stop("1")
            with self.assertRaisesRegex(foundations.RefusedError, "it has ended"):
                client.stop("1")
            with self.assertRaisesRegex(foundations.NotFoundError, "there is no /jobs/2"):
                client.job("2")
        self.assertEqual([request.method for request in api.requests], ["GET", "POST", "POST", "GET"])
        with self.assertRaises(foundations.NoDaemonError):
            _client.default().job("1")


if __name__ == "__main__":
    unittest.main()
