"""minillm generate"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from minillm.cli.generate_checks import DEFAULT_TOKENS, check_options
from minillm.cli.options import is_given
from minillm.cli.special import OF_A_PROMPT, Special


class Order(str, Enum):
    """Whose order and definitions the sampler follows."""

    minillm = "minillm"
    hf = "hf"
    vllm = "vllm"
    llama_cpp = "llama.cpp"


class Early(str, Enum):
    """When a beam search ends."""

    true = "true"
    false = "false"
    never = "never"


def _option(panel: str, text: str, *names: str, **settings):
    return typer.Option(
        *names, help=text, rich_help_panel=panel, show_default=settings.pop("show_default", False), **settings
    )


CUTS, MEMORY, WANTED = "Which tokens may be chosen", "Against repetition", "Tokens that are wanted or not (ids)"
SEARCH, OUTPUT = "Search, and several tokens at a time", "What is shown"


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
    num_samples: Annotated[int, typer.Option(help="Texts to write, all from the same prompt.", min=1)] = 1,
    temperature: Annotated[
        float, typer.Option(help="Below 1: surer. Above 1: wilder. 0: always the likeliest token.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="The same seed writes the same text.")] = 0,
    top_k: Annotated[Optional[int], _option(CUTS, "The k likeliest tokens; 0: all.")] = None,
    top_p: Annotated[Optional[float], _option(CUTS, "The likeliest that have this probability together.")] = None,
    min_p: Annotated[Optional[float], _option(CUTS, "Those at least this share as likely as the likeliest.")] = None,
    typical_p: Annotated[
        Optional[float], _option(CUTS, "Those of typical surprise that have this probability together.")
    ] = None,
    epsilon_cutoff: Annotated[Optional[float], _option(CUTS, "Those of at least this probability.")] = None,
    eta_cutoff: Annotated[Optional[float], _option(CUTS, "The same, less strict where the model is unsure.")] = None,
    top_n_sigma: Annotated[
        Optional[float], _option(CUTS, "Logits at most so many deviations below the largest.")
    ] = None,
    xtc_probability: Annotated[
        float, _option(CUTS, "How often all but the least likely of the tokens above --xtc-threshold are left out.")
    ] = 0.0,
    xtc_threshold: Annotated[float, _option(CUTS, "See --xtc-probability.", show_default=True)] = 0.1,
    mirostat: Annotated[
        Optional[float], _option(CUTS, "Surprise in bits that the text is steered to (mirostat v2).")
    ] = None,
    mirostat_eta: Annotated[float, _option(CUTS, "How fast mirostat steers.", show_default=True)] = 0.1,
    order: Annotated[
        Order, _option(CUTS, "Whose order and definitions of all this are followed.", show_default=True)
    ] = Order.minillm,
    repetition_penalty: Annotated[float, _option(MEMORY, "Above 1: tokens seen before are less likely.")] = 1.0,
    presence_penalty: Annotated[float, _option(MEMORY, "Lowers logits of tokens written before.")] = 0.0,
    frequency_penalty: Annotated[float, _option(MEMORY, "The same for each time they were written.")] = 0.0,
    penalty_window: Annotated[Optional[int], _option(MEMORY, "Look at so many of the last tokens only.")] = None,
    no_repeat_ngram: Annotated[int, _option(MEMORY, "No run of n tokens is written twice.")] = 0,
    dry_multiplier: Annotated[float, _option(MEMORY, "DRY: punish tokens that prolong a repetition.")] = 0.0,
    dry_base: Annotated[float, _option(MEMORY, "How much more for each token.", show_default=True)] = 1.75,
    dry_allowed_length: Annotated[
        int, _option(MEMORY, "Repetitions up to this length are free.", show_default=True)
    ] = 2,
    dry_breaker: Annotated[
        Optional[list[str]], _option(MEMORY, 'Texts over which no repetition reaches; by default newline : " *')
    ] = None,
    logit_bias: Annotated[Optional[list[str]], _option(WANTED, "Add to a token's logit.", metavar="ID:NUMBER")] = None,
    ban_token: Annotated[Optional[list[int]], _option(WANTED, "Never write this token.", metavar="ID")] = None,
    force_token: Annotated[
        Optional[list[str]], _option(WANTED, "Write this token there; 0 is the first.", metavar="POSITION:ID")
    ] = None,
    min_tokens: Annotated[int, _option(WANTED, "No end of text before so many tokens.")] = 0,
    beams: Annotated[int, _option(SEARCH, "Beam search with so many beams.", min=1)] = 1,
    length_penalty: Annotated[
        float, _option(SEARCH, "Scores are divided by length to this power.", show_default=True)
    ] = 1.0,
    early_stopping: Annotated[
        Early, _option(SEARCH, "End the search once there are --beams finished texts.", show_default=True)
    ] = Early.false,
    n_best: Annotated[int, _option(SEARCH, "How many of the beams' texts are shown.", min=1)] = 1,
    contrastive_alpha: Annotated[
        Optional[float], _option(SEARCH, "Contrastive search: the weight of being unlike (with --top-k, 4 by default).")
    ] = None,
    draft: Annotated[
        Optional[Path], _option(SEARCH, "A smaller model of the same vocabulary that guesses ahead.")
    ] = None,
    lookup: Annotated[bool, _option(SEARCH, "Guess ahead by looking up what followed before.", "--lookup")] = False,
    lookahead: Annotated[
        Optional[int], _option(SEARCH, "Tokens that are guessed at a time: 4 by a draft, 10 by look-up.", min=1)
    ] = None,
    trace: Annotated[bool, _option(OUTPUT, "Tell how each token was chosen.", "--trace")] = False,
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
    dtype: Annotated[
        str, typer.Option(help="float32 or float64: what the file's weights are expanded to.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda (needs CuPy), or cudasim.")] = "cpu",
) -> None:
    """Let a model write on from a prompt; the text is streamed to standard output as it is drawn."""
    from minillm.backend.arrays import float_dtype
    from minillm.cli.generate_output import (
        Shown,
        numbered,
        print_json_lines,
        print_texts,
        show_comparison,
        stream_text,
    )
    from minillm.data.special import doubles_bos, encode_prompt
    from minillm.errors import UserError
    from minillm.generation.speculative import PromptLookup
    from minillm.generation.strategy import Strategy
    from minillm.pretrained import from_pretrained, tokenizer_of
    from minillm.pretrained.end_tokens import end_tokens
    from minillm.sampler import Sampler
    from minillm.sampler.penalties import breaker_tokens
    from minillm.tokenizers.start import start_of_text

    given = {name: value for name, value in context.params.items() if is_given(context, name)}
    remarks = check_options(given)
    if beams > 1 or contrastive_alpha is not None:
        temperature = 1.0  # the model's own probabilities
    settings = dict(top_p=top_p, min_p=min_p, typical_p=typical_p, epsilon_cutoff=epsilon_cutoff)
    settings |= dict(eta_cutoff=eta_cutoff, top_n_sigma=top_n_sigma, order=order.value)
    settings |= dict(xtc_probability=xtc_probability, xtc_threshold=xtc_threshold)
    settings |= dict(mirostat_tau=mirostat, mirostat_eta=mirostat_eta)
    settings |= dict(repetition_penalty=repetition_penalty, presence_penalty=presence_penalty)
    settings |= dict(frequency_penalty=frequency_penalty, penalty_window=penalty_window)
    settings |= dict(no_repeat_ngram=no_repeat_ngram, dry_multiplier=dry_multiplier, dry_base=dry_base)
    settings |= dict(dry_allowed_length=dry_allowed_length, banned_tokens=tuple(ban_token or ()))
    settings |= dict(logit_bias=numbered("--logit-bias", logit_bias, float))
    settings |= dict(forced_tokens=numbered("--force-token", force_token, int))
    Sampler(temperature, top_k, seed, **settings)  # raises before the model is opened
    if revision and Path(model).exists():
        remarks.append(f"--revision changes nothing: {model} is on this machine")
    reading = special.value if special else ""
    if chat_template and not chat:
        raise UserError("--chat-template is the template of a conversation: use it with --chat")
    if chat and reading == "text":
        raise UserError("--special text: a conversation is read with its special tokens; refuse them, or leave it out")
    tokenizer = tokenizer_of(model, revision)
    float_dtype(dtype)  # text is written in the precision of the weights
    language_model = from_pretrained(model, dtype, revision).to(device)
    end = () if ignore_end else end_tokens(model, tokenizer, revision)
    if dry_multiplier:
        settings |= dict(dry_breakers=breaker_tokens(tokenizer, dry_breaker or ["\n", ":", '"', "*"]))
        missing = [text for text in dry_breaker or () if not breaker_tokens(tokenizer, [text])]
        remarks += [f"--dry-breaker {text!r} stands in no token: no repetition ends there" for text in missing]
    for remark in remarks:
        typer.echo(f"({remark})", err=True)
    if chat:
        from minillm.pretrained.chat import ask, chat_of

        if prompt is None:
            chat_of(model, revision, chat_template)  # a model without a template is told first
            raise UserError("--chat: the prompt is the question, give it with --prompt")
        ids, answer_ends = ask(model, tokenizer, prompt, revision, chat_template, reading)
        end = end if ignore_end else tuple(sorted({*end, *answer_ends}))
        start = ""
    elif prompt is None:
        ids, start = start_of_text(tokenizer)
    else:
        ids, start = encode_prompt(tokenizer, prompt, reading or "text"), prompt
        if doubles_bos(tokenizer, prompt, reading):
            typer.echo(
                f"(the prompt begins with {tokenizer.bos_token}, which is not put before it once more)", err=True
            )
    if min_tokens and not end:
        raise UserError(
            f"--min-tokens {min_tokens}: {model} knows no end of text that could come too early; leave it out"
        )
    if min_tokens:
        settings |= dict(min_tokens=min_tokens, end_tokens=end)
    if compare:
        show_comparison(language_model, tokenizer, start, ids, max_tokens, seed, end, stop or (), chart)
        return
    proposer = PromptLookup() if lookup else from_pretrained(draft, dtype).to(device) if draft else None
    strategy = Strategy(
        Sampler(temperature, top_k, seed, **settings),
        beams=beams,
        length_penalty=length_penalty,
        early_stopping={"true": True, "false": False}.get(early_stopping.value, early_stopping.value),
        n_best=n_best,
        contrastive_alpha=contrastive_alpha,
        draft=proposer,
        lookahead=lookahead,
    )
    shown = Shown(trace, logprobs)
    asked = dict(samples=num_samples, eos_ids=end, stop=stop or (), max_time=max_time, **shown._asdict())
    completions = strategy.write(language_model, tokenizer, ids, max_tokens, **asked)
    if json_lines:
        texts = print_json_lines(completions, start if prompt is None else prompt, shown)
    elif num_samples > 1 or n_best > 1:
        texts = print_texts(completions, tokenizer, start, shown)
    else:
        texts = stream_text(completions, tokenizer, start, shown)
    longest = language_model.config.context_length
    if len(ids) + max(len(text.ids) for text in texts) - 1 > longest:  # nobody reads the last token
        note = f"(the model sees up to {longest} tokens at a time; when full, the oldest quarter slid out of view)"
        typer.echo(note, err=True)
