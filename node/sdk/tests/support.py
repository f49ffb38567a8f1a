"""What the tests share: the path to the package, a captured standard output, a daemon's API of this process."""

import contextlib
import io
import json
import os
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import unittest
from http.server import BaseHTTPRequestHandler

SDK = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REPOSITORY = os.path.dirname(os.path.dirname(SDK))
# A test's process is no experiment, however it is started.
os.environ["FOUNDATIONS_COMMAND_LINE"] = "True"
sys.path.insert(0, SDK)

PREFIX = "/api/fnode/v1"
# Seconds that a child may take on a busy machine.
TIMEOUT_S = 60
_OURS = ("FNODE_", "FOUNDATIONS_")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has what it starts in the background ignore Ctrl-C, and so would every script of the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Case(unittest.TestCase):
    """A test in a directory of its own, with nothing of fnode in its environment, that puts everything back."""

    def setUp(self):
        self.dir = os.path.realpath(self.enter(tempfile.TemporaryDirectory()))
        before = os.getcwd()
        os.chdir(self.dir)
        self.addCleanup(os.chdir, before)
        variables = dict(os.environ)
        self.addCleanup(os.environ.update, variables)
        self.addCleanup(os.environ.clear)
        for name in variables:
            if name.startswith(_OURS) or name == "PROJECT_NAME":
                del os.environ[name]
        os.environ["FOUNDATIONS_COMMAND_LINE"] = "True"
        # No test finds the daemon or the configuration of whoever runs it.
        os.environ["HOME"] = self.path("home")
        os.environ["FNODE_HOME"] = self.path("home", ".fnode")
        start_anew()
        self.addCleanup(start_anew)

    def enter(self, context):
        value = context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)
        return value

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def read(self, *parts):
        with open(self.path(*parts), encoding="utf-8") as file:
            return file.read()

    def write(self, name, text, **options):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", **options) as file:
            file.write(text)
        return path

    @contextlib.contextmanager
    def printed(self):
        """What is printed inside of the block, in a list of lines that is filled at its end."""
        lines, out = [], io.StringIO()
        with contextlib.redirect_stdout(out):
            yield lines
        lines.extend(out.getvalue().splitlines())

    def script(self, text, name="script.py", arguments=(), python=(), **variables):
        """Runs a script as a user would, and returns the ended process. A variable None is taken out."""
        path = self.write(name, text)
        environment = dict(os.environ, PYTHONPATH=SDK, PYTHONDONTWRITEBYTECODE="1")
        environment.pop("FOUNDATIONS_COMMAND_LINE", None)
        environment.update({key: value for key, value in variables.items() if value is not None})
        for key in [key for key, value in variables.items() if value is None]:
            environment.pop(key, None)
        return subprocess.run(
            [sys.executable, *python, path, *arguments],
            env=environment,
            cwd=self.dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=TIMEOUT_S,
        )


def start_anew():
    """Forgets what the package remembers of this process."""
    from foundations import _config, _console, testing

    testing._start_anew()
    _console._said.clear()
    _config.config_manager.reset()
    _config._resources.clear()
    _config._project_name = None


class Daemon:
    """A real HTTP server where a daemon's would be: a Unix socket in its data directory, or loopback with a token.

    `answer(method, path, body, headers)` returns (status, JSON or bytes) or (status, body, headers).
    """

    def __init__(self, home, answer, loopback=False, version="0.1.0"):
        self.requests = []
        self.token = "secret-token"
        os.makedirs(os.path.join(home, "run"), exist_ok=True)
        handler = _handler(self, answer, version)
        if loopback:
            self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
            api = {"addr": "127.0.0.1:{}".format(self._server.server_address[1]), "token": self.token}
            api.update(version=version, pid=os.getpid())
            with open(os.path.join(home, "api.json"), "w") as file:
                json.dump(api, file)
        else:
            self._server = socketserver.ThreadingUnixStreamServer(os.path.join(home, "run", "api.sock"), handler)
        self._server.daemon_threads = True
        # A client that closes in the middle is what some tests are about; its test sees what went wrong.
        self._server.handle_error = lambda request, address: None
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(daemon, answer, version):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def address_string(self):
            return "test"

        def log_message(self, *words):
            return

        def _serve(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path[len(PREFIX) :] if self.path.startswith(PREFIX) else self.path
            daemon.requests.append((self.command, path, json.loads(body) if body else None, dict(self.headers)))
            status, given, *more = answer(self.command, path, body, self.headers)
            self.send_response(status)
            if version:
                self.send_header("fnode-version", version)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            if isinstance(given, list):
                # Pieces, sent one by one as a log is.
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                try:
                    for piece in given:
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                        self.wfile.flush()
                    self.wfile.write(b"0\r\n\r\n")
                except ConnectionResetError:
                    self.close_connection = True
                return
            data = given if isinstance(given, bytes) else json.dumps(given).encode()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve

    return Handler


def job(job_id="j1", state="completed", **more):
    """A job as the API tells it."""
    word = {
        "id": job_id,
        "project": "mnist",
        "name": "",
        "user": "ada",
        "state": state,
        "command": ["python", "main.py"],
        "submitted_unix_ms": 1_600_000_000_000,
        "started_unix_ms": 1_600_000_001_500 if state != "queued" else None,
        "ended_unix_ms": 1_600_000_009_000 if state in ("completed", "failed", "stopped") else None,
        "archived": False,
        "tags": {},
        "params": {},
        "input_params": {},
        "metrics": {},
        "artifacts": [],
    }
    word.update(more)
    return {key: value for key, value in word.items() if value is not None}
