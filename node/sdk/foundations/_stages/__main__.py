"""``python -m foundations._stages FILE``: what a job does that ``stage.run()`` has submitted.

``python -m foundations._stages --stage NAME``: what a part of such a job does, as `part.ORDER` says.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Reads the graph, takes its file away, runs it; or runs one stage of a graph."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if sys.argv[1] == "--stage":
        from . import part

        part.main()
        return
    from . import carry, run

    path = sys.argv[1]
    with open(path, "rb") as file:
        data = file.read()
    try:
        # It is no output of the job.
        os.unlink(path)
    except OSError:
        pass
    graph = carry.unpack(data)
    carry.received = data
    run.in_this_job(graph["last"], graph["params"], graph["job_name"], graph["parallel"])


if __name__ == "__main__":
    main()
