"""The program's entry, for ``qfix`` and ``python -m qfix``: what start-up and exit cost is here."""

import gc
import os
import sys

FEWER_COLLECTIONS = 50_000


def run() -> None:
    """Run qfix as a program; start-up is a good part of what a look at a small image takes.

    Imports make no garbage that collecting would find; numpy's linear algebra, which is not used,
    would start a thread a core; and at the end there is nothing that the kernel does not free
    faster.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(FEWER_COLLECTIONS)
    try:
        from qfix.cli import main

        status = main()
        sys.stdout.flush()
        sys.stderr.flush()
    except KeyboardInterrupt:
        status = 130
    os._exit(status)


if __name__ == "__main__":
    run()
