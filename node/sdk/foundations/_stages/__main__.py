"""``python -m foundations._stages FILE``: what a job does that ``stage.run()`` has submitted."""

from __future__ import annotations

import os
import sys

from . import carry, run


def main() -> None:
    """Reads the graph, takes its file away, runs it."""
    path = sys.argv[1]
    with open(path, "rb") as file:
        data = file.read()
    try:
        # It is no output of the job.
        os.unlink(path)
    except OSError:
        pass
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    graph = carry.unpack(data)
    run.in_this_job(graph["last"], graph["params"], graph["job_name"])


if __name__ == "__main__":
    main()
