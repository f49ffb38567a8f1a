"""Real nodes on this machine for scripts/demo and scripts/bench, driven by the public command line alone."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Failed(Exception):
    """Something did not go as promised; whoever asked ends here."""


def build():
    """Returns the program's path, built if need be."""
    given = os.environ.get("FNODE_BIN")
    if given:
        return pathlib.Path(given).resolve()
    print("building the program; the first time takes minutes", file=sys.stderr, flush=True)
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "-p", "node"], cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return (ROOT / target / "release" / "fnode").resolve()


def until(what, seconds, look):
    """Looks until `look` returns something; that is returned."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(0.1)


class Lab:
    """Nodes on loopback, each with a data directory of its own below one temporary directory."""

    def __init__(self, program, below=None):
        self.program, self.nodes, self.down = program, [], set()
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="fnode-lab-", dir=below))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FNODE_")}
        # A node that is killed here shall stay dead, as a machine does; and the user's cache is not ours.
        own = {"FNODE_RESPAWN": "0", "NO_COLOR": "1", "XDG_CACHE_HOME": str(self.base / "cache")}
        self.environment = {**environment, **own}

    def home(self, node):
        return self.base / node

    def run(self, node, *words, timeout=120, **more):
        """Runs one command of `node`'s command line; returns what it printed."""
        command = [self.program, "--home", self.home(node), *words]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False, **more
        )
        if done.returncode != 0:
            shown = " ".join(str(word) for word in words)
            raise Failed(f"fnode {shown} on {node} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def json(self, node, *words, **more):
        return json.loads(self.run(node, "--json", *words, **more))

    def start(self, node, *words):
        """Starts a node; it founds the cluster if it is the first, else it joins."""
        command = ["start", "--detach", "--name", node, "--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--no-mdns"]
        ticket = ""
        if self.nodes:
            ticket = self.run(self.nodes[0], "invite", "--ttl", "10m").strip().splitlines()[-1]
            command += ["--join", "-"]
        self.nodes.append(node)
        self.run(node, *command, *words, input=ticket)

    def alive(self, node):
        """Names of the nodes that `node` sees alive, itself included."""
        return [seen["name"] for seen in self.json(node, "status")["nodes"] if seen["presence"] == "alive"]

    def meet(self):
        """Waits until every node sees every other."""
        count = len(self.nodes)
        until(f"{count} nodes see each other", 30, lambda: all(len(self.alive(node)) == count for node in self.nodes))

    def processes(self, node):
        """Process ids of everything that runs for `node`: daemon, runner, jobs. They all name its directory."""
        mark = str(self.home(node)).encode()
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                words = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
            except OSError:
                continue
            if any(mark == part or mark + b"/" in part or part.endswith(b"=" + mark) for part in words.split(b"\0")):
                found.append(int(entry.name))
        return found

    def kill(self, node):
        """The whole node at once, as when its plug is pulled."""
        self.down.add(node)
        for process in self.processes(node):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def close(self):
        for node in self.nodes:
            if node not in self.down:
                try:
                    self.run(node, "shutdown", "--jobs", timeout=15)
                except (Failed, subprocess.TimeoutExpired):
                    pass
            deadline = time.monotonic() + 5
            while self.processes(node):
                if time.monotonic() > deadline:
                    self.kill(node)
                time.sleep(0.05)
        shutil.rmtree(self.base, ignore_errors=True)
