"""minillm train"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from minillm.cli.options import takes_fields

_RUN, _MODEL = "The run", "The model"
PANELS = (_RUN, _MODEL, "How it learns", "Evaluation", "Processes and machines")
NOT_SETTINGS = ("files", "preset", "out", "overwrite", "resume", "stop_after", "device", "profile", "head_width")


def _option(help: str, *names: str, **more):
    return typer.Option(*names, help=help, rich_help_panel=_RUN, show_default=False, **more)


def make_options() -> list:
    """An option for each training setting, and for each field of each architecture's
    configuration.
    """
    from minillm.cli.options import options_of
    from minillm.distributed.machine import Machine
    from minillm.models.architectures import config_classes
    from minillm.models.presets import PRESETS
    from minillm.training.settings import TrainingSettings

    preset, options = PRESETS["default"], {}
    for settings in (TrainingSettings, *config_classes()):
        for each in options_of(settings, given_only=True, defaults={**preset.training, **preset.model}):
            options.setdefault(each.name, each)
    options |= {each.name: each for each in options_of(Machine, given_only=True)}
    return list(options.values())


@takes_fields(make_options, PANELS)
def command(
    context: typer.Context,
    files: Annotated[Optional[list[str]], typer.Argument(help="More files for --data.", show_default=False)] = None,
    preset: Annotated[
        str, _option("A set of settings by name, see above; the other options change it. [default: default]")
    ] = "default",
    out: Annotated[Optional[Path], _option("The run folder to make; runs/NAME-N if not given, see above.")] = None,
    overwrite: Annotated[bool, _option("Replace a run that is in the folder already.")] = False,
    resume: Annotated[
        Optional[Path], _option("Continue the run in this folder, bit for bit; it needs no other setting.")
    ] = None,
    stop_after: Annotated[
        Optional[int], _option("Stop and save after this step, as Ctrl-C would; --resume continues.")
    ] = None,
    device: Annotated[
        str, _option("cpu, cuda (needs CuPy), or cudasim (kernels in the simulator; slow, needs g++). [default: cpu]")
    ] = "cpu",
    profile: Annotated[
        bool, _option("After a few steps, print where the time of one goes; then train on.", "--profile")
    ] = False,
    head_width: Annotated[Optional[int], typer.Option(hidden=True)] = None,  # as --head-dim was called
    **settings,
) -> None:
    """Train a language model on text, from nothing, and leave a run folder that generates, resumes
    and opens in transformers. With --init MODEL --chat-data FILE teach a model to answer.

    {presets}

    The defaults below are those of the preset default.

    Without --out the run goes to runs/NAME-1, or the first number that is free. NAME is the preset;
    the text's, where neither a preset nor a model is named.

    Ctrl-C ends after the current step, saves, and prints the command to resume. At every evaluation
    the validation loss decides which model the folder keeps.
    """
    from minillm.cli import train_progress
    from minillm.distributed.machine import MACHINE_NAMES, Machine

    given = {name: value for name, value in context.params.items() if value not in (None, [], ())}
    given = {name: value for name, value in given.items() if name not in NOT_SETTINGS}
    machine = Machine(**{name: given.pop(name) for name in MACHINE_NAMES if name in given})
    if head_width is not None:
        given.setdefault("head_dim", head_width)
    if files:
        given["data"] = [*given.get("data", ()), *files]
    train_progress.train_and_show(
        given,
        preset_name=preset if context.get_parameter_source("preset").name == "COMMANDLINE" else None,
        out=out,
        overwrite=overwrite,
        resume=resume,
        stop_after=stop_after,
        device=device,
        profile=profile,
        machine=machine,
    )
