"""minillm chat"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from minillm.cli.generate import PANELS, TEMPERATURE
from minillm.cli.generate_checks import DEFAULT_TOKENS, check_options
from minillm.cli.opening import HELP as DTYPE_HELP
from minillm.cli.opening import settings_of
from minillm.cli.options import is_given, takes_fields
from minillm.cli.terminal import waiting


def make_options() -> list:
    """An option for each setting of the sampler."""
    from minillm.cli.options import options_of
    from minillm.sampler.settings import SamplerSettings

    return options_of(SamplerSettings, defaults={"temperature": TEMPERATURE})


@takes_fields(make_options, PANELS)
def command(
    context: typer.Context,
    model: Annotated[
        Path,
        typer.Argument(help="A run folder, a Hugging Face folder or hub model (owner/model), or a GGUF file."),
    ],
    system: Annotated[
        Optional[str], typer.Option(help="The system message: how the model is to answer.", show_default=False)
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer, at most.", min=1)] = DEFAULT_TOKENS,
    stop: Annotated[
        Optional[list[str]],
        typer.Option(help="End an answer before this text; may be given several times.", show_default=False),
    ] = None,
    chat_template: Annotated[
        Optional[str],
        typer.Option(help="Which template, of a model that has several, by name.", show_default=False),
    ] = None,
    revision: Annotated[
        Optional[str], typer.Option(help="Of a hub model: a branch, a tag, or a commit.", show_default=False)
    ] = None,
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda (needs CuPy), or cudasim.")] = "cpu",
    **settings,
) -> None:
    """Talk with a model in its own chat template; answers are streamed to standard output.

    What was said stays in the model's cache: an answer begins at once, however long the
    conversation is. When the context is full, the oldest turns leave it, and that is said.

    Lines from a pipe are read as lines that are typed: messages, and commands such as /reset. /help
    lists the commands. Ctrl-C ends an answer, Ctrl-D the conversation.
    """
    from minillm.cli.chat_sampler import make_sampler
    from minillm.cli.chat_session import NO_SYSTEM, Session
    from minillm.cli.generate import breaker_ids
    from minillm.cli.generate_output import print_note
    from minillm.cli.options import read_values
    from minillm.generation.conversation import Conversation
    from minillm.pretrained import from_pretrained, tokenizer_of
    from minillm.pretrained.chat import chat_of
    from minillm.pretrained.end_tokens import end_tokens
    from minillm.sampler.settings import SamplerSettings

    notes = check_options({name: value for name, value in context.params.items() if is_given(context, name)})
    breakers = settings.pop("dry_breakers")
    settings = read_values(SamplerSettings, settings)
    if revision and Path(model).exists():
        notes.append(f"--revision changes nothing: {model} is on this machine")
    chat = chat_of(model, revision, chat_template)  # its absence is the first error
    opening = settings_of(dtype, device)
    with waiting("opening the model", plain=False):
        tokenizer = tokenizer_of(model, revision)
        language_model = from_pretrained(model, revision=revision, **opening).to(device)
    ends = end_tokens(model, tokenizer, revision)
    options = dict(max_tokens=max_tokens, stop=stop or (), end_tokens=ends)
    conversation = Conversation(language_model, tokenizer, chat, **options)
    if settings["dry_multiplier"]:
        settings["dry_breakers"] = breaker_ids(tokenizer, breakers, notes)
    conversation.sampler = make_sampler(settings, conversation)
    if system is not None:
        conversation.set_system(system)
        if not conversation.shows_system():
            notes.append(NO_SYSTEM)
    for note in notes:
        print_note(note)
    Session(conversation, str(model)).run()
