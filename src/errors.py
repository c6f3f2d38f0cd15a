"""User errors: one line, exit status 2. Everything else keeps its traceback (status 1)."""
from __future__ import annotations

import sys


class UserError(Exception):
    """Something the user can mend. The text says what is wrong, where, and what to do."""


def run_main(main, argv=None) -> int:
    """Run `main(argv)` and turn a `UserError` into one line on stderr.

    Returns the exit status of SPEC 10a: 0 done, 2 the user's input. Any other exception is a
    bug and passes through with its traceback.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        status = main(argv)
    except UserError as error:
        line = " ".join(str(error).split())
        print(f"error: {line}", file=sys.stderr, flush=True)
        return 2
    return 0 if status is None else int(status)
