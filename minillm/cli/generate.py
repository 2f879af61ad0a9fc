"""minillm generate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def command(
    model: Annotated[
        Path,
        typer.Argument(help="A run folder, a Hugging Face folder or hub model (owner/model), a GGUF or llama2.c file."),
    ],
    prompt: Annotated[str, typer.Option(help="The text to continue.")] = "\n",
    max_tokens: Annotated[int, typer.Option(help="Tokens to write.", min=1)] = 500,
    temperature: Annotated[
        float, typer.Option(help="Below 1: surer. Above 1: wilder. 0: always the likeliest token.")
    ] = 0.8,
    top_k: Annotated[
        Optional[int], typer.Option(help="Choose among the k likeliest tokens only; 0: among all.")
    ] = None,
    top_p: Annotated[
        Optional[float],
        typer.Option(help="Choose among the likeliest tokens that have this probability together.", show_default=False),
    ] = None,
    min_p: Annotated[
        Optional[float],
        typer.Option(help="Choose among tokens at least this share as likely as the likeliest.", show_default=False),
    ] = None,
    typical_p: Annotated[
        Optional[float],
        typer.Option(
            help="Choose among tokens of typical surprise that have this probability together.", show_default=False
        ),
    ] = None,
    epsilon_cutoff: Annotated[
        Optional[float], typer.Option(help="Choose among tokens of at least this probability.", show_default=False)
    ] = None,
    eta_cutoff: Annotated[
        Optional[float], typer.Option(help="The same, less strict where the model is unsure.", show_default=False)
    ] = None,
    top_n_sigma: Annotated[
        Optional[float],
        typer.Option(help="Choose among logits at most so many deviations below the largest.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed writes the same text.")] = 0,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a question: use the model's own template, print the answer.")
    ] = False,
    revision: Annotated[
        Optional[str], typer.Option(help="Of a hub model: a branch, a tag, or a commit.", show_default=False)
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="float32 or float64: what the file's weights are expanded to.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda (needs CuPy), or cudasim.")] = "cpu",
) -> None:
    """Let a model write on from a prompt; the text is streamed to standard output as it is drawn."""
    import sys

    import numpy as np

    from minillm.pretrained import from_pretrained, tokenizer_of
    from minillm.sampler import Sampler, generate

    cuts = dict(top_p=top_p, min_p=min_p, typical_p=typical_p, epsilon_cutoff=epsilon_cutoff)
    cuts |= dict(eta_cutoff=eta_cutoff, top_n_sigma=top_n_sigma)
    sampler = Sampler(temperature=temperature, top_k=top_k, seed=seed, **cuts)
    language_model, tokenizer = from_pretrained(model, dtype, revision).to(device), tokenizer_of(model, revision)
    end = None
    if chat:
        from minillm.pretrained.chat import chat_of

        ids, end = chat_of(model).encode(tokenizer, [{"role": "user", "content": prompt}])
    else:
        ids = tokenizer.encode(prompt)
    decoder = tokenizer.stream()
    context = language_model.config.context_length
    sys.stdout.write("" if chat else prompt)
    for token in generate(language_model, np.array([ids]), max_new_tokens=max_tokens, sampler=sampler):
        if int(token[0]) == end:
            break
        sys.stdout.write(decoder.push(int(token[0])))
        sys.stdout.flush()
    sys.stdout.write(decoder.finish() + "\n")
    if len(ids) + max_tokens > context:
        note = f"(the model sees up to {context} tokens at a time; when full, the oldest quarter slid out of view)"
        print(note, file=sys.stderr)
