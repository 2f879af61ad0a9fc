"""The command line. Each command stands in a file of its own and only calls what the package offers."""

from __future__ import annotations

import sys


def main() -> None:
    """The console script `minillm`. What the user can mend is told in one line, with exit code 2."""
    import typer

    from minillm.cli.app import app
    from minillm.errors import UserError

    usage_error = typer.BadParameter.__base__  # click's UsageError, of the click that this typer brings or depends on
    try:
        sys.exit(app(standalone_mode=False))
    except UserError as error:
        fail(str(error))
    except MemoryError as error:  # outside of training, which says more (memory_advice.py)
        from minillm.training.memory_advice import explain_shortly

        fail(explain_shortly(error))
    except usage_error as error:
        fail(error.format_message())
    except (typer.Abort, KeyboardInterrupt):
        print("\nminillm: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, as in `minillm generate ... | head`
        sys.stderr.close()
        sys.exit(1)


def fail(message: str) -> None:
    """Tell what went wrong in one line, and exit with code 2."""
    print(f"minillm: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
