"""``python -m foundations …`` is the command ``foundations …``: the fnode program under that name."""

import os
import sys

from foundations import _home


def main() -> int:
    binary = _home.binary()
    if binary is None:
        print(
            "foundations: the program fnode is not on PATH; install it, or set FNODE_BIN to where it is",
            file=sys.stderr,
        )
        return 1
    try:
        # It knows by its name which command it is.
        os.execv(binary, ["foundations", *sys.argv[1:]])
    except OSError as error:
        print("foundations: cannot run {}: {}".format(binary, error.strerror), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
