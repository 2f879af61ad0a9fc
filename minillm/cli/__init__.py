"""The command line: one file a command, which only calls what the package offers."""

from __future__ import annotations

import sys
from contextlib import suppress

from minillm.cli.terminal import INTERRUPTED


def main() -> None:
    """The console script `minillm`.

    An error that the user can mend is one line, with exit code 2.
    """
    from minillm.cli.streams import finish_output, open_streams, silence
    from minillm.distributed.launched import launched

    open_streams()
    if launched().rank > 0:
        silence()
    try:
        sys.exit(_run())
    except BrokenPipeError:  # the reader of our output has gone, as in `minillm generate ... | head`
        finish_output()
        sys.exit(1)
    except OSError as error:  # the world's: no space, no permission, no such device
        from minillm.files.atomic import describe_os_error

        fail(describe_os_error(error))
    except MemoryError as error:  # outside of training, which says more (memory_advice.py)
        from minillm.profiling.memory_advice import explain_shortly

        fail(explain_shortly(error))
    except KeyboardInterrupt:
        print("\nminillm: stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _run() -> int:
    """Runs the command and writes out what is left to write; returns the exit code."""
    import typer

    from minillm.cli.app import app
    from minillm.errors import UserError

    usage_error = typer.BadParameter.__base__  # click's UsageError, of the click that this typer brings or depends on
    try:
        code = app(prog_name="minillm", standalone_mode=False)
        if code == INTERRUPTED:  # how some versions report Ctrl-C
            raise typer.Abort
    except UserError as error:
        from minillm.distributed.last_words import traceback_behind

        print(traceback_behind(error), end="", file=sys.stderr)
        fail(str(error))
    except usage_error as error:
        message = error.format_message()
        if type(error).__name__ != "NoArgsIsHelpError":
            fail(message)
        print(message, end="")  # the help, where there were no arguments; empty if it was printed already
        code = 0
    except typer.Abort:
        raise KeyboardInterrupt from None
    sys.stdout.flush()
    return code


def fail(message: str) -> None:
    """Print an error as one line, and exit with code 2."""
    from minillm.cli.streams import finish_output

    finish_output()
    with suppress(OSError):  # standard error may be gone, too
        print(f"minillm: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
