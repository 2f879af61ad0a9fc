"""The commands, put together: a command's module is loaded when it is used, or listed by --help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from inspect import getdoc

import typer

from minillm.cli.options import takes_fields
from minillm.cli.plain_values import PlainHelp

NAMES = (  # of the commands and their modules, in the order of the help
    *("train", "generate", "chat", "evaluate", "gradcheck", "info", "inspect", "export", "lesson", "plot"),
    *("simulate", "exercise", "read", "play", "tokenizer"),
)


class Commands(Mapping):
    """The commands by name, each made when it is asked for."""

    def __init__(self):
        self._made = {}

    def __getitem__(self, name: str):
        if name not in NAMES:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = _make_command(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


class CommandGroup(PlainHelp, typer.core.TyperGroup):
    """`minillm` itself."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.commands = Commands()


def _make_command(name: str):
    """The click command, or the group of commands, of the module with that name."""
    module, alone = import_module(f"minillm.cli.{name}"), typer.Typer(add_completion=False)
    alone.callback()(lambda: None)  # a Typer of one command and no callback would be that command
    if hasattr(module, "app"):  # has commands of its own
        alone.add_typer(module.app, name=name)
    else:
        # the parameters of a command are made when it is used
        command = module.command if hasattr(module.command, "cls") else takes_fields(lambda: ())(module.command)
        summary = " ".join(getdoc(module.command).split("\n\n")[0].split())
        alone.command(name=name, cls=command.cls, short_help=summary)(command)
    return typer.main.get_command(alone).commands[name]


app = typer.Typer(
    name="minillm",
    cls=CommandGroup,
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
