"""minillm generate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple, Optional

import typer

from minillm.cli.generate_checks import DEFAULT_TOKENS, check_options
from minillm.cli.opening import HELP as DTYPE_HELP
from minillm.cli.opening import settings_of
from minillm.cli.options import is_given, takes_fields
from minillm.cli.special import OF_A_PROMPT, Special
from minillm.cli.terminal import waiting

SEARCH, OUTPUT = "Search, and several tokens at a time", "What is shown"
PANELS = ("Which tokens may be chosen", "Against repetition", "Tokens that are wanted or not (ids)", SEARCH, OUTPUT)
SEARCHES = ("beams", "length_penalty", "early_stopping", "n_best", "contrastive_alpha", "lookahead")  # of Strategy
TEMPERATURE = 0.8  # if none is given


class Start(NamedTuple):
    """What is continued: its ids, its text as it is shown, and the tokens and texts that end the
    continuation.
    """

    ids: list[int]
    text: str
    end: tuple[int, ...]
    stop: tuple[str, ...] = ()


def _option(panel: str, text: str, *names: str, show_default: bool = False, **more):
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=show_default, **more)


def make_options() -> list:
    """An option for each setting of the sampler and of the searches."""
    from minillm.cli.options import options_of
    from minillm.generation.strategy import Strategy
    from minillm.sampler.settings import SamplerSettings

    searches = options_of(Strategy, defaults={"early_stopping": "false"})
    return options_of(SamplerSettings, defaults={"temperature": TEMPERATURE}) + searches


@takes_fields(make_options, PANELS)
def command(
    context: typer.Context,
    model: Annotated[
        Path,
        typer.Argument(help="A run folder, a Hugging Face folder or hub model (owner/model), a GGUF or llama2.c file."),
    ],
    prompt: Annotated[
        Optional[str],
        typer.Option(help="The text to continue; if left out, what the model's texts begin with.", show_default=False),
    ] = None,
    special: Annotated[Optional[Special], OF_A_PROMPT] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens to write.", min=1)] = DEFAULT_TOKENS,
    stop: Annotated[
        Optional[list[str]], typer.Option(help="End before this text; may be given several times.", show_default=False)
    ] = None,
    ignore_end: Annotated[
        bool, typer.Option("--ignore-end", help="Write on after the end of text, or of an answer.")
    ] = False,
    max_time: Annotated[
        Optional[float], typer.Option(help="Seconds after which no more is written.", show_default=False, min=0)
    ] = None,
    num_samples: Annotated[
        int, typer.Option(help="Texts to write, all from the same prompt; with --compare, by each strategy.", min=1)
    ] = 1,
    draft: Annotated[
        Optional[Path], _option(SEARCH, "A smaller model of the same vocabulary that guesses ahead.")
    ] = None,
    lookup: Annotated[bool, _option(SEARCH, "Guess ahead by looking up what followed before.", "--lookup")] = False,
    trace: Annotated[bool, _option(OUTPUT, "Show how each token was chosen.", "--trace")] = False,
    logprobs: Annotated[bool, _option(OUTPUT, "Show what the model gave each token.", "--logprobs")] = False,
    json_lines: Annotated[bool, _option(OUTPUT, "A line of JSON for each text.", "--json")] = False,
    compare: Annotated[
        bool, _option(OUTPUT, "Continue the prompt with every strategy, side by side.", "--compare")
    ] = False,
    chart: Annotated[Path, _option(OUTPUT, "Where --compare draws.", show_default=True)] = Path("compare.png"),
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a question: use the model's own template, print the answer.")
    ] = False,
    chat_template: Annotated[
        Optional[str],
        typer.Option(help="With --chat: which template, of a model that has several, by name.", show_default=False),
    ] = None,
    revision: Annotated[
        Optional[str], typer.Option(help="Of a hub model: a branch, a tag, or a commit.", show_default=False)
    ] = None,
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda (needs CuPy), or cudasim.")] = "cpu",
    **settings,
) -> None:
    """Let a model write on from a prompt; the text is streamed to standard output as it
    is drawn.
    """
    from minillm.cli import generate_output as output
    from minillm.cli.options import read_values
    from minillm.errors import UserError
    from minillm.generation.strategy import Strategy
    from minillm.pretrained import from_pretrained, tokenizer_of
    from minillm.sampler import Sampler
    from minillm.sampler.settings import SamplerSettings

    notes = check_options({name: value for name, value in context.params.items() if is_given(context, name)})
    search = {name: settings.pop(name) for name in SEARCHES}
    search["early_stopping"] = {"true": True, "false": False}.get(search["early_stopping"].value, "never")
    if search["beams"] > 1 or search["contrastive_alpha"] is not None:
        settings["temperature"] = 1.0  # the model's own probabilities
    breakers, min_tokens = settings.pop("dry_breakers"), settings.pop("min_tokens")
    settings = read_values(SamplerSettings, settings)
    Sampler(**settings)  # raises before the model is opened
    if revision and Path(model).exists():
        notes.append(f"--revision changes nothing: {model} is on this machine")
    reading = special.value if special else ""
    _check_chat(chat, chat_template, reading)
    tokenizer = tokenizer_of(model, revision)
    opening = settings_of(dtype, device)
    with waiting("opening the model", plain=False):
        language_model = from_pretrained(model, revision=revision, **opening).to(device)
    if settings["dry_multiplier"]:
        settings["dry_breakers"] = breaker_ids(tokenizer, breakers, notes)
    for note in notes:
        output.print_note(note)
    if chat:
        start = _question(model, tokenizer, prompt, revision, chat_template, reading)
    else:
        start = _start(model, tokenizer, prompt, revision, reading)
    end = () if ignore_end else start.end
    if min_tokens and not end:
        raise UserError(
            f"--min-tokens {min_tokens}: {model} knows no end of text that could come too early; leave it out"
        )
    if min_tokens:
        settings |= dict(min_tokens=min_tokens, end_tokens=end)
    ends = dict(eos_ids=end, stop=(*(stop or ()), *(() if ignore_end else start.stop)))
    if compare:
        options = dict(seed=settings["seed"], samples=num_samples, **ends)
        output.show_comparison(language_model, tokenizer, start.text, start.ids, max_tokens, chart, **options)
        return
    proposer = from_pretrained(draft, **opening).to(device) if draft else None
    if lookup:
        from minillm.generation.speculative import PromptLookup

        proposer = PromptLookup()
    strategy = Strategy(Sampler(**settings), draft=proposer, **search)
    shown = output.Shown(trace, logprobs)
    options = dict(samples=num_samples, max_time=max_time, **ends, **shown._asdict())
    completions = strategy.write(language_model, tokenizer, start.ids, max_tokens, **options)
    if json_lines:
        texts = output.print_json_lines(completions, start.text if prompt is None else prompt, shown)
    elif num_samples > 1 or search["n_best"] > 1:
        texts = output.print_texts(completions, tokenizer, start.text, shown)
    else:
        texts = output.stream_text(completions, tokenizer, start.text, shown)
    longest = language_model.config.context_length
    if len(start.ids) + max(len(text.ids) for text in texts) - 1 > longest:  # the last token is not read
        output.print_note(
            f"the model sees up to {longest} tokens at a time; when full, the oldest quarter slid out of view"
        )


def _check_chat(chat: bool, template: str | None, reading: str) -> None:
    from minillm.errors import UserError

    if template and not chat:
        raise UserError("--chat-template is the template of a conversation: use it with --chat")
    if chat and reading == "text":
        raise UserError("--special text: a conversation is read with its special tokens; refuse them, or leave it out")


def breaker_ids(tokenizer, texts: list[str] | None, notes: list[str]) -> tuple[int, ...]:
    """The tokens at which a repetition ends (DRY); adds a note for each text that is in
    no token.
    """
    from minillm.sampler.penalties import USUAL_BREAKERS, breaker_tokens

    missing = [text for text in texts or () if not breaker_tokens(tokenizer, [text])]
    notes += [f"--dry-breaker {text!r} is in no token: no repetition ends there" for text in missing]
    return breaker_tokens(tokenizer, texts or USUAL_BREAKERS)


def _question(model, tokenizer, prompt: str | None, revision, template: str | None, reading: str) -> Start:
    """A question in the model's chat template."""
    from minillm.errors import UserError
    from minillm.pretrained.chat import ask, chat_of
    from minillm.pretrained.end_tokens import end_tokens

    if prompt is None:
        chat_of(model, revision, template)  # a model without a template is the first error
        raise UserError("--chat: the prompt is the question, give it with --prompt")
    ids, answer_ends = ask(model, tokenizer, prompt, revision, template, reading)
    end_text = chat_of(model, revision, template).end_text(tokenizer)
    ends = tuple(sorted({*end_tokens(model, tokenizer, revision), *answer_ends}))
    return Start(ids, "", ends, (end_text,) if end_text else ())


def _start(model, tokenizer, prompt: str | None, revision, reading: str) -> Start:
    """A prompt, or with None what the model's texts begin with."""
    from minillm.cli.generate_output import print_note
    from minillm.data.special import doubles_bos, encode_prompt
    from minillm.pretrained.end_tokens import end_tokens
    from minillm.tokenizers import BytePairTokenizer
    from minillm.tokenizers.start import start_of_text

    end = end_tokens(model, tokenizer, revision)
    if prompt is None:
        return Start(*start_of_text(tokenizer), end)
    ids = encode_prompt(tokenizer, prompt, reading or "text")
    if doubles_bos(tokenizer, prompt, reading):
        print_note(f"the prompt begins with {tokenizer.bos_token}, which is not put before it once more")
    if prompt.endswith(" ") and isinstance(tokenizer, BytePairTokenizer):
        print_note("the prompt ends in a space: byte pairs begin a word with its space, so leave the last one out")
    return Start(ids, prompt, end)
