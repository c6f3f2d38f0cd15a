"""User errors: one line, exit status 2. Everything else keeps its traceback (status 1)."""

from __future__ import annotations

import sys


class UserError(Exception):
    """Something the user can mend. The text says what is wrong, where, and what to do."""


class RunError(Exception):
    """The run cannot go on, and it is not the user's input: one line, exit status 1."""


def run_main(main, argv=None) -> int:
    """Run `main(argv)` and turn a `UserError` or `RunError` into one line on stderr.

    Returns the exit status of SPEC 10a: 0 done, 2 the user's input, 1 anything else. Any other exception is a
    bug and passes through with its traceback.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        status = main(argv)
    except (UserError, RunError) as error:
        line = " ".join(str(error).split())
        print(f"error: {line}", file=sys.stderr, flush=True)
        status = 2 if isinstance(error, UserError) else 1
        # leaving quietly would wait for ever in MPI_Finalize for ranks that wait for this one
        mpi = sys.modules.get("mpi4py.MPI")
        if mpi is not None and mpi.COMM_WORLD.Get_size() > 1:
            mpi.COMM_WORLD.Abort(status)
        return status
    return 0 if status is None else int(status)
