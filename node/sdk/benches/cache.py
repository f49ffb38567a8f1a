"""What the cache costs, beside joblib's Memory and redun in the same run.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install numpy joblib redun scikit-learn
    /tmp/venv/bin/python node/sdk/benches/cache.py

Goals: a local hit of a small value p50 0.1 ms and no slower than joblib's; a hit of a 100 MiB array no slower than
joblib's; an 8 MB array argument in a quarter of joblib's time; 1,000 trivial stages, cold and all found, 20 times as
fast as redun; of a pipeline of five stages whose last one changed, only that one runs. With ``--program FNODE`` a graph
of stages that keep a processor busy runs on two nodes, in sequence and in parallel. What is not installed is left out,
with a line that says so. Times are medians; ours and theirs alternate.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

SDK = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
os.environ["FOUNDATIONS_COMMAND_LINE"] = "True"
sys.path.insert(0, SDK)

# What was measured, for --json.
figures = []


def installed(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        print("{} is not installed: left out".format(name))
        return None


def median_ms(calls, rounds):
    """The median of each call, in milliseconds; one after the other in each round."""
    times = [[] for _ in calls]
    for _ in range(rounds):
        for call, found in zip(calls, times):
            began = time.perf_counter()
            call()
            found.append((time.perf_counter() - began) * 1000)
    return [statistics.median(found) for found in times]


def show(what, ours, goal, theirs=None, name="joblib", most=None):
    """Prints a figure. It is reached when it is at most `theirs`, and at most `most` milliseconds."""
    limits = [limit for limit in (most, theirs) if limit is not None]
    reached = all(ours <= limit for limit in limits) if limits else None
    beside = "" if theirs is None else "{} {:.3f} ms".format(name, theirs)
    verdict = {None: "", True: "reached", False: "MISSED"}[reached]
    print("{:44} {:10.3f} ms   goal {:22} {:8} {}".format(what, ours, goal, verdict, beside).rstrip(), flush=True)
    figures.append({"what": what, "ms": ours, "goal": goal, "reached": reached, "beside": beside})


def small(x):
    return {"value": x}


def large(size):
    import numpy

    return numpy.ones(size)


def hits(directory, joblib, numpy):
    import foundations

    ours = foundations.cache(small)
    calls = [lambda: ours(1)]
    if joblib:
        memory = joblib.Memory(directory, verbose=0)
        theirs = memory.cache(small)
        calls.append(lambda: theirs(1))
    for call in calls:
        call()
    show("local hit, small value", *with_goal(median_ms(calls, 2000), "0.1 ms, joblib's"), most=0.1)
    if not numpy:
        return
    size = 100 * (1 << 20) // 8
    ours_large = foundations.cache(large)
    calls = [lambda: ours_large(size)]
    if joblib:
        theirs_large = memory.cache(large)
        calls.append(lambda: theirs_large(size))
    for call in calls:
        call()
    show("hit of a 100 MiB array", *with_goal(median_ms(calls, 15), "joblib's"))
    read = [lambda call=call: call().sum() for call in calls]
    show("hit of a 100 MiB array, and all of it read", *with_goal(median_ms(read, 15), "joblib's"))


def with_goal(times, goal):
    return (times[0], goal, *times[1:])


def argument(joblib, numpy):
    from foundations._cache.walk import Walk

    if not numpy:
        return
    array = numpy.random.default_rng(1).random(1_000_000)
    calls = [lambda: Walk().digest(array, "array")]
    if joblib:
        calls.append(lambda: joblib.hash(array))
    ours, *theirs = median_ms(calls, 60)
    show("8 MB array argument hashed", ours, "1/4 of joblib's", *(one / 4 for one in theirs), name="1/4 of joblib's")


OURS = """
import sys, time
import foundations

def step(x):
    return x + 1

stage = foundations.create_stage(step)
total = foundations.create_stage(sum)
began = time.perf_counter()
print(total([stage(number) for number in range({stages})]).enable_caching().run_same_process())
print((time.perf_counter() - began) * 1000)
"""

REDUN = """
import logging, os, time
logging.disable(logging.CRITICAL)
from redun import Scheduler, task
from redun.config import Config

redun_namespace = "bench"

@task()
def step(x):
    return x + 1

@task()
def total(values):
    return sum(values)

@task(cache=False)
def main():
    return total([step(number) for number in range({stages})])

scheduler = Scheduler(config=Config({{"backend": {{"db_uri": "sqlite:///" + os.environ["REDUN_DB"]}}}}))
scheduler.load()
began = time.perf_counter()
print(scheduler.run(main()))
print((time.perf_counter() - began) * 1000)
"""


def script(directory, name, text):
    """Runs a script in a process of its own; its last line is the milliseconds that count."""
    path = os.path.join(directory, name)
    with open(path, "w") as file:
        file.write(text)
    environment = dict(os.environ, PYTHONPATH=SDK, REDUN_DB=os.path.join(directory, "redun.db"))
    done = subprocess.run([sys.executable, path], env=environment, cwd=directory, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().split("\n")[:-1]


def graphs(directory, redun, stages):
    expected = str(sum(range(stages)) + stages)
    times = {}
    for what in ("cold", "all found"):
        for name, text in (("ours", OURS), ("redun", REDUN)):
            if name == "redun" and not redun:
                continue
            lines = script(directory, name + "_graph.py", text.format(stages=stages))
            if lines[-2] != expected:
                sys.exit("{} gave {}, {} expected".format(name, lines[-2], expected))
            times[name] = float(lines[-1])
        limit = times["redun"] / 20 if "redun" in times else None
        show("{:,} trivial stages, {}".format(stages, what), times["ours"], "1/20 of redun's", limit, "1/20 of redun's")


PIPELINE = """
import os, sys, time
import foundations
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

def load(size):
    print("ran load")
    return make_classification(size, 20, random_state=0)

def split(data):
    print("ran split")
    return train_test_split(*data, random_state=0)

def scale(parts):
    print("ran scale")
    scaler = StandardScaler().fit(parts[0])
    return scaler.transform(parts[0]), scaler.transform(parts[1]), parts[2], parts[3]

def train(parts):
    print("ran train")
    return RandomForestClassifier(200, random_state=0).fit(parts[0], parts[2])

def score(model, parts):
    print("ran score")
    return round(model.score(parts[1], parts[3]), {digits})

began = time.perf_counter()
stages = [foundations.create_stage(one) for one in (load, split, scale, train, score)]
parts = stages[2](stages[1](stages[0](8000)))
stages[4](stages[3](parts), parts).enable_caching().run_same_process()
print((time.perf_counter() - began) * 1000)
"""


def pipeline(directory):
    times, ran = [], []
    for digits in (3, 3, 4):
        lines = script(directory, "pipeline.py", PIPELINE.format(digits=digits))
        times.append(float(lines[-1]))
        ran.append([line[4:] for line in lines if line.startswith("ran ")])
    show("pipeline of five stages, cold", times[0], "")
    show("pipeline, nothing changed", times[1], "")
    show("pipeline, last stage changed", times[2], "only that one runs")
    print("{:44} {}, then {}, then {}".format("stages that ran", *(" ".join(one) or "none" for one in ran)))
    if ran != [["load", "split", "scale", "train", "score"], [], ["score"]]:
        sys.exit("other stages ran than should have")


PARALLEL = """
import time
import foundations

def work(number):
    until = time.process_time() + {seconds}
    while time.process_time() < until:
        number = (number * 16807) % 2147483647
    return number

stage = foundations.create_stage(work)
total = foundations.create_stage(max)
total([stage(number) for number in range({stages})]).run()
"""


class Cluster:
    """Two nodes on loopback with a processor each."""

    def __init__(self, program, directory):
        self.program = program
        self.homes = [os.path.join(directory, name) for name in ("one", "two")]
        self.environment = dict(os.environ, FNODE_HOME=self.homes[0], FNODE_BIN=program, PYTHONPATH=SDK)

    def __enter__(self):
        words = ["start", "--detach", "--listen", "127.0.0.1:0", "--api", "0", "--no-mdns", "--cpus", "1"]
        self.fnode(0, *words, "--name", "one")
        self.fnode(1, *words, "--name", "two", "--join", "-", given=self.fnode(0, "invite"))
        return self

    def __exit__(self, *error):
        for at in (1, 0):
            self.fnode(at, "shutdown", "--jobs")

    def fnode(self, at, *words, given=""):
        command = [self.program, "--home", self.homes[at], *words]
        done = subprocess.run(command, env=self.environment, input=given, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    def graph_ms(self, directory, parallel, text):
        """Submits a driver's graph; how long its job took, and on how many nodes its stages ran."""
        with open(os.path.join(directory, "driver.py"), "w") as file:
            file.write(text)
        with open(os.path.join(directory, "job.config.yaml"), "w") as file:
            file.write("worker:\n  environment:\n    PYTHONPATH: {}\n".format(json.dumps(SDK)))
        environment = dict(self.environment, FNODE_PARALLEL_STAGES="1" if parallel else "0")
        subprocess.run(
            [sys.executable, "driver.py"], cwd=directory, env=environment, stdout=subprocess.DEVNULL, check=True
        )
        job = json.loads(self.fnode(0, "--json", "jobs"))["jobs"][0]["id"]
        self.fnode(0, "job", "wait", job)
        shown = json.loads(self.fnode(0, "--json", "job", "show", job))
        if shown["state"] != "completed":
            sys.exit(self.fnode(0, "logs", job))
        graph = json.loads(self.fnode(0, "--json", "job", "graph", job))
        nodes = {one["node"] for one in graph["runs"][0]["stages"]}
        return shown["ended_unix_ms"] - shown["started_unix_ms"], len(nodes)


def parallel(directory, program, seconds):
    """Eight stages that each keep a processor busy, on two nodes with a processor each."""
    text = PARALLEL.format(stages=8, seconds=seconds)
    with Cluster(program, directory) as cluster:
        project = os.path.join(directory, "project")
        os.mkdir(project)
        times = {False: [], True: []}
        for _ in range(2):
            for kind in times:
                took, nodes = cluster.graph_ms(project, kind, text)
                times[kind].append(took)
    one_by_one, at_once = (statistics.median(times[kind]) for kind in (False, True))
    show("8 stages of {:g} s in sequence, on a node".format(seconds), one_by_one, "")
    beside = "in sequence / 1.6, {:.2f} times as fast".format(one_by_one / at_once)
    show("the same in parallel, on {} nodes".format(nodes), at_once, "1/1.6 of that", one_by_one / 1.6, beside)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=1000, help="trivial stages of a graph")
    parser.add_argument("--program", metavar="FNODE", help="the program, for graphs on two nodes")
    parser.add_argument("--seconds", type=float, default=2.0, help="what a stage of such a graph takes")
    parser.add_argument("--only-parallel", action="store_true", help="only these graphs")
    parser.add_argument("--json", metavar="FILE", help="where the figures go, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if args.program:
            parallel(directory, os.path.abspath(args.program), args.seconds)
        if not args.only_parallel:
            alone(directory, args.stages)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(figures, file)


def alone(directory, stages):
    """What needs no node."""
    joblib, numpy, redun, sklearn = map(installed, ("joblib", "numpy", "redun", "sklearn"))
    os.environ["FNODE_HOME"] = os.path.join(directory, "home")
    hits(os.path.join(directory, "joblib"), joblib, numpy)
    argument(joblib, numpy)
    graphs(directory, redun, stages)
    if sklearn:
        pipeline(directory)


if __name__ == "__main__":
    main()
