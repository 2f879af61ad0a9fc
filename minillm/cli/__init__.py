"""The command line. Each command stands in a file of its own and only calls what the package offers."""

from __future__ import annotations

import sys


def main() -> None:
    """The console script `minillm`. What the user can mend is told in one line, with exit code 2."""
    import click

    from minillm.cli.app import app
    from minillm.errors import UserError

    try:
        sys.exit(app(standalone_mode=False))
    except UserError as error:
        fail(str(error))
    except click.UsageError as error:
        fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        print("\nminillm: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, as in `minillm generate ... | head`
        sys.stderr.close()
        sys.exit(1)


def fail(message: str) -> None:
    """Tell what went wrong in one line, and exit with code 2."""
    print(f"minillm: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
