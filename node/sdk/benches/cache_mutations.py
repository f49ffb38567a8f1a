"""The table of mutations, run against this package, joblib, redun and DVC, side by side.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install numpy joblib redun dvc
    /tmp/venv/bin/python node/sdk/benches/cache_mutations.py

A tool is STALE where it found a result that may differ, `needless` where it computed one that cannot, and `-` where the
mutation is about something that it does not have, `fails` where it raised an error. What is not installed is left out, with a line that says so. DVC is
given every source and data file of the project as a dependency, as its manual asks for. Every change is made in the
same directory, as a user edits, but for the one that moves it.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time

SDK = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(SDK, "tests"))

import cache_mutations  # noqa: E402
from cache_mutations import Table  # noqa: E402

JOBLIB = """\
import os
import joblib

memory = joblib.Memory(os.environ["TOOL_CACHE"], verbose=0)


def cached(**options):
    return memory.cache


def call(function, arguments):
    return function(**arguments)
"""

REDUN = """\
import logging
import os

logging.disable(logging.CRITICAL)
from redun import Scheduler, task
from redun.config import Config


def cached(**options):
    return task(namespace="mutations")


def call(function, arguments):
    os.makedirs(os.environ["TOOL_CACHE"], exist_ok=True)
    place = "sqlite:///" + os.path.join(os.environ["TOOL_CACHE"], "redun.db")
    scheduler = Scheduler(config=Config({"backend": {"db_uri": place}}))
    scheduler.load()
    return scheduler.run(function(**arguments))
"""

PLAIN = """\
def cached(**options):
    return lambda function: function


def call(function, arguments):
    return function(**arguments)
"""


class Dvc(Table):
    """The project as one stage of DVC; its lock file and cache are those of the run before."""

    def __init__(self, root, project):
        super().__init__(root, project, PLAIN, in_place=True)
        self._lock = os.path.join(root, "dvc.lock")
        self._sources = sorted(name for name in project if not name.startswith("site-packages"))
        self.command = [sys.executable, "-m", "dvc", "repro"]

    def prepare(self, place, environment):
        with open(os.path.join(place, "dvc.yaml"), "w") as file:
            file.write("stages:\n  work:\n    cmd: {} main.py | tee out.txt\n    deps:\n".format(sys.executable))
            file.writelines("      - {}\n".format(name) for name in self._sources)
            file.write("    outs:\n      - out.txt\n")
        self._dvc(place, environment, "init", "--no-scm", "--quiet")
        self._dvc(place, environment, "config", "cache.dir", os.path.join(self.root, "dvc-cache"))
        if os.path.exists(self._lock):
            shutil.copy(self._lock, os.path.join(place, "dvc.lock"))
        self._place = place

    def _dvc(self, place, environment, *words):
        command = [sys.executable, "-m", "dvc", *words]
        subprocess.run(command, cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL)

    def _run(self, mutation):
        ran, _ = super()._run(mutation)
        if not os.path.exists(self._lock):
            shutil.copy(os.path.join(self._place, "dvc.lock"), self._lock)
        return ran, None

    def values(self, lines):
        # A stage that is found prints nothing.
        return [""]


def tools():
    """(name, how a table of it is made, what it does not have)."""
    found = [("fnode", lambda root, project: Table(root, project, in_place=True), ())]
    others = (
        ("joblib", "joblib", lambda root, project: Table(root, project, JOBLIB, in_place=True), ("python", "version")),
        ("redun", "redun", lambda root, project: Table(root, project, REDUN, in_place=True), ("python", "version")),
        ("DVC", "dvc", Dvc, ("python", "version")),
    )
    for name, module, make, lacks in others:
        if importlib.util.find_spec(module) is None:
            print("{} is not installed: left out".format(name))
        else:
            found.append((name, make, lacks))
    return found


def judged(table, mutation):
    try:
        computed = table.computes(mutation)
    except (AssertionError, subprocess.CalledProcessError):
        # Some tools do not take every argument.
        return "fails"
    if mutation.must == "miss":
        return "ok" if computed else "STALE"
    return "needless" if computed else "ok"


def compare(title, project, mutations, columns, counts):
    with tempfile.TemporaryDirectory() as directory:
        tables = []
        for name, make, lacks in columns:
            root = os.path.join(directory, name)
            os.mkdir(root)
            table = make(root, project)
            table.first()
            tables.append((name, table, lacks))
        print("\n{:50} {:6}".format(title, "must"), *("{:9}".format(name) for name, _, _ in tables))
        for mutation in mutations:
            cells = []
            for name, table, lacks in tables:
                cell = "-" if set(mutation.needs) & set(lacks) else judged(table, mutation)
                counts.setdefault(name, []).append(cell)
                cells.append("{:9}".format(cell))
            print("{:50} {:6}".format(mutation.name, mutation.must), *cells, flush=True)


def main():
    began = time.monotonic()
    columns, counts = tools(), {}
    compare("a project", cache_mutations.PROJECT, cache_mutations.MUTATIONS, columns, counts)
    if importlib.util.find_spec("numpy") is None:
        print("numpy is not installed: its arrays are left out")
    else:
        compare("arrays", cache_mutations.ARRAYS, cache_mutations.ARRAY_MUTATIONS, columns, counts)
    print()
    for name, cells in counts.items():
        words = {cell: cells.count(cell) for cell in ("ok", "STALE", "needless", "fails", "-")}
        print(
            "{:8} {ok:3} right, {STALE:3} stale, {needless:3} needless, {fails} fail, {-} do not apply".format(
                name, **words
            )
        )
    print("{:.0f} s".format(time.monotonic() - began))
    if set(counts["fnode"]) != {"ok"}:
        sys.exit(1)


if __name__ == "__main__":
    main()
