"""User errors: one line, exit status 2. Everything else keeps its traceback (status 1)."""

from __future__ import annotations

import sys
import traceback

from src import PACKAGES, no_package
from src.streams import use_utf8_streams


class UserError(Exception):
    """Something the user can mend. The text says what is wrong, where, and what to do."""


class RunError(Exception):
    """The run cannot go on, and it is not the user's input: one line, exit status 1."""


_ranks = None


def set_ranks(ranks) -> None:
    """Name the processes that must end with this one (`src.ranks.Ranks`)."""
    global _ranks
    _ranks = ranks


def run_main(main, argv=None) -> int:
    """Run `main(argv)`; a `UserError`, a `RunError` or a missing package becomes one line on stderr.

    Returns the exit status of SPEC 10a: 0 done, 2 the user's input, 1 anything else. Any other exception is a
    bug and keeps its traceback. With several ranks the last line names rank and cause, and all ranks end: one
    that left quietly would leave the others waiting for it for ever.
    """
    use_utf8_streams()
    argv = sys.argv[1:] if argv is None else argv
    status, line = 1, ""
    try:
        status = main(argv) or 0
    except (UserError, RunError) as error:
        status, line = (2 if isinstance(error, UserError) else 1), " ".join(str(error).split())
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        status, line = 130, "interrupted"
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name in PACKAGES:
            status, line = 2, no_package(error.name)
        else:
            traceback.print_exc()
            line = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}" if _several() else ""
    if line:
        rank = f"rank {_ranks.rank}: " if _several() else ""
        print(f"error: {rank}{line}", file=sys.stderr, flush=True)
    if status and _several():
        sys.stdout.flush()
        _ranks.abort(status)
    return status


def _several() -> bool:
    return _ranks is not None and _ranks.size > 1
