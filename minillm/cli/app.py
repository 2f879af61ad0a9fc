"""The commands, put together."""

from inspect import getdoc

import typer

from minillm.cli import (
    chat,
    evaluate,
    exercise,
    export,
    generate,
    gradcheck,
    info,
    inspect,
    lesson,
    play,
    plot,
    read,
    simulate,
    tokenizer,
    train,
)
from minillm.cli.options import takes_fields

app = typer.Typer(
    name="minillm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Language models with every gradient written by hand: train them, let them write, check their gradients.",
    epilog="Start with: minillm train. Then: minillm generate runs/default-1",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from minillm.version import __version__

        print(f"minillm {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Language models with every gradient written by hand."""


for module in (
    train,
    generate,
    chat,
    evaluate,
    gradcheck,
    info,
    inspect,
    export,
    lesson,
    plot,
    simulate,
    exercise,
    read,
    play,
):
    # the parameters of a command are made when it is used
    command = module.command if hasattr(module.command, "cls") else takes_fields(lambda: ())(module.command)
    summary = " ".join(getdoc(module.command).split("\n\n")[0].split())
    app.command(name=module.__name__.rpartition(".")[2], cls=command.cls, short_help=summary)(command)
app.add_typer(tokenizer.app, name="tokenizer")
