"""What tracking costs: the import of the package over bare Python, and one `log_metric` with its write.

    python3 node/sdk/benches/log_metric.py

Goals: 30 ms and 10 µs. The import is the median of 20 pairs of processes, one with and one without it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

SDK = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAIRS = 20
POINTS = 200_000


def seconds(code, track):
    environment = dict(os.environ, PYTHONPATH=SDK, FNODE_JOB_ID="bench", FNODE_TRACK=track)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def over_bare_ms(code, track, bare="import os; os._exit(0)"):
    seconds(code, track)
    differences = [seconds(code, track) - seconds(bare, track) for _ in range(PAIRS)]
    return statistics.median(differences) * 1000


def log_metric_us(values):
    import foundations

    foundations.log_metric("warm", 0.0)
    began = time.perf_counter()
    for value in values:
        foundations.log_metric("loss", value)
    return (time.perf_counter() - began) / len(values) * 1e6


def main():
    with tempfile.TemporaryDirectory() as directory:
        track = os.path.join(directory, "track")
        os.environ.update(FNODE_JOB_ID="bench", FNODE_TRACK=track)
        sys.path.insert(0, SDK)
        alone = over_bare_ms("import foundations, os; os._exit(0)", track)
        first = over_bare_ms("import foundations; foundations.log_metric('a', 1.0); import os; os._exit(0)", track)
        whole = over_bare_ms("import foundations", track, bare="pass")
        print("import foundations            {:7.1f} ms over bare Python (goal 30)".format(alone))
        print("import and first log_metric   {:7.1f} ms over bare Python".format(first))
        print("import, and the record at end {:7.1f} ms over bare Python".format(whole))
        print(
            "log_metric, float             {:7.2f} us (goal 10)".format(log_metric_us([i / 7 for i in range(POINTS)]))
        )
        print("log_metric, int               {:7.2f} us (goal 10)".format(log_metric_us(range(POINTS))))
        with open(track, "rb") as file:
            lines = sum(1 for _ in file)
        wanted = 2 * (POINTS + 1) + 2 * (PAIRS + 1)
        if lines != wanted:
            sys.exit("{} lines in the track file, {} expected".format(lines, wanted))


if __name__ == "__main__":
    main()
