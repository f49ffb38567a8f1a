"""What a colleague's result costs the first time: made on one node, found on another. `scripts/bench colleague` runs it.

    FNODE_HOME=~/.fnode       python node/sdk/benches/cache_colleague.py make 200
    FNODE_HOME=~/.fnode-beta  python node/sdk/benches/cache_colleague.py find 200

Prints, as JSON, the milliseconds of each call that found its value, of small values (they travel with the log) and of
values of 200 KB (they are fetched when somebody asks). Goal: p50 of small ones 5 ms (DESIGN §13).
"""

import json
import os
import sys
import time

os.environ["FOUNDATIONS_COMMAND_LINE"] = "True"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import foundations
from foundations._cache import keeping


@foundations.cache
def small(number):
    return {"number": number}


@foundations.cache
def large(number):
    return bytes([number % 256]) * 200_000


def main():
    what, count = sys.argv[1], int(sys.argv[2])
    if what == "make":
        for number in range(count):
            small(number), large(number)
        return 0 if keeping.flush(60) else 1
    times = {"small": [], "large": []}
    # The first calls of a process look at code and connect; what counts is a value's way.
    small(0), large(0)
    for number in range(1, count):
        for function in (small, large):
            began = time.perf_counter()
            outcome = function.run((number,), {})
            took = (time.perf_counter() - began) * 1000
            if not outcome.hit:
                print("value {} of {} was not there".format(number, function.__name__), file=sys.stderr)
                return 1
            times[function.__name__].append(took)
    print(json.dumps(times))
    return 0


sys.exit(main())
