"""minillm train"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from minillm.cli.special import OF_DATA

_RUN, _MODEL, _STEPS, _EVAL = "The run", "The model", "How it learns", "Evaluation"


def _option(panel: str, help: str, *names: str):
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False)


def command(
    context: typer.Context,
    files: Annotated[Optional[list[str]], typer.Argument(help="More files for --data.", show_default=False)] = None,
    data: Annotated[
        Optional[list[str]],
        _option(
            _RUN, "What to learn from: python-docs (built in), shakespeare (downloaded once), or UTF-8 text files."
        ),
    ] = None,
    special: Annotated[Optional[str], _option(_RUN, OF_DATA)] = None,
    preset: Annotated[
        str, _option(_RUN, "A set of settings by name; see below. The other options change it.")
    ] = "default",
    out: Annotated[Optional[Path], _option(_RUN, "The run folder to make; runs/PRESET-N if not given.")] = None,
    overwrite: Annotated[bool, _option(_RUN, "Replace a run that stands in the folder already.")] = False,
    resume: Annotated[
        Optional[Path], _option(_RUN, "Continue the run in this folder, bit for bit; it needs no other setting.")
    ] = None,
    init: Annotated[
        Optional[str], _option(_RUN, "Continue from this model, with its tokenizer: a folder, a file or a hub name.")
    ] = None,
    freeze: Annotated[
        Optional[list[str]],
        _option(_RUN, "Parameters that do not learn, by a pattern of their names, as *.wte.*; may be repeated."),
    ] = None,
    lora_rank: Annotated[
        Optional[int], _option(_RUN, "With --init: learn only LoRA matrices of this rank; 8 is usual.")
    ] = None,
    merge: Annotated[
        Optional[bool],
        _option(_RUN, "Add LoRA's matrices to the weights of the run folder's model.", "--merge/--no-merge"),
    ] = None,
    stop_after: Annotated[
        Optional[int], _option(_RUN, "Stop and save after this step, as Ctrl-C would; --resume continues.")
    ] = None,
    device: Annotated[
        str, _option(_RUN, "cpu, cuda (needs CuPy), or cudasim (kernels in the simulator; slow, needs g++).")
    ] = "cpu",
    profile: Annotated[
        bool, _option(_RUN, "After a few steps, print where the time of one goes; then train on.", "--profile")
    ] = False,
    tokenizer: Annotated[
        Optional[str], _option(_RUN, "char (every character a token) or bpe (byte pairs learned from the text).")
    ] = None,
    vocab_size: Annotated[Optional[int], _option(_RUN, "With --tokenizer bpe: tokens; 1024 if not given.")] = None,
    seed: Annotated[Optional[int], _option(_RUN, "The same seed gives the same run.")] = None,
    n_layer: Annotated[Optional[int], _option(_MODEL, "Transformer blocks.")] = None,
    n_head: Annotated[Optional[int], _option(_MODEL, "Attention heads in each block.")] = None,
    n_kv_head: Annotated[
        Optional[int], _option(_MODEL, "Llama: key/value heads, each shared by several attention heads.")
    ] = None,
    d_model: Annotated[Optional[int], _option(_MODEL, "Width of a token's vector; divisible by --n-head.")] = None,
    d_ff: Annotated[
        Optional[int], _option(_MODEL, "Width inside the MLP; 4 (Llama: 8/3) times --d-model if not given.")
    ] = None,
    context_length: Annotated[Optional[int], _option(_MODEL, "Tokens that the model can look back on.")] = None,
    dropout: Annotated[Optional[float], _option(_MODEL, "Probability of dropping a value, from 0 to below 1.")] = None,
    bias: Annotated[
        Optional[bool], _option(_MODEL, "GPT-2: biases in linear layers and norms.", "--bias/--no-bias")
    ] = None,
    tie_embeddings: Annotated[
        Optional[bool],
        _option(_MODEL, "One matrix reads tokens and scores them.", "--tie-embeddings/--no-tie-embeddings"),
    ] = None,
    activation: Annotated[Optional[str], _option(_MODEL, "gelu_new (tanh form, as GPT-2) or gelu (exact).")] = None,
    layer_norm_eps: Annotated[Optional[float], _option(_MODEL, "GPT-2: added to the variance in layer norm.")] = None,
    rms_norm_eps: Annotated[Optional[float], _option(_MODEL, "Llama: added to the mean square in RMS norm.")] = None,
    rope_theta: Annotated[Optional[float], _option(_MODEL, "Llama: base of the rotary embedding's angles.")] = None,
    rope_interleaved: Annotated[
        Optional[bool],
        _option(_MODEL, "Llama: rotary pairs side by side.", "--rope-interleaved/--no-rope-interleaved"),
    ] = None,
    head_dim: Annotated[Optional[int], _option(_MODEL, "Llama: width of a head, if not d-model / n-head.")] = None,
    attention_bias: Annotated[
        Optional[bool], _option(_MODEL, "Llama: biases in attention.", "--attention-bias/--no-attention-bias")
    ] = None,
    mlp_bias: Annotated[
        Optional[bool], _option(_MODEL, "Llama: biases in the MLP.", "--mlp-bias/--no-mlp-bias")
    ] = None,
    dtype: Annotated[
        Optional[str],
        _option(
            _MODEL, "float32, float64, or on a GPU tf32 or bfloat16: matrix products of fewer bits, weights in float32."
        ),
    ] = None,
    max_steps: Annotated[Optional[int], _option(_STEPS, "Steps in all: where the schedule ends.")] = None,
    batch_size: Annotated[Optional[int], _option(_STEPS, "Windows of text in a batch.")] = None,
    gradient_accumulation: Annotated[Optional[int], _option(_STEPS, "Batches whose gradients make one step.")] = None,
    optimizer: Annotated[Optional[str], _option(_STEPS, "adamw, adam (decay as L2 penalty), or sgd (momentum beta1).")] = None,
    lr: Annotated[Optional[float], _option(_STEPS, "Highest learning rate.")] = None,
    min_lr: Annotated[
        Optional[float], _option(_STEPS, "Learning rate at the end; a tenth of --lr if only that is given.")
    ] = None,
    warmup_steps: Annotated[Optional[int], _option(_STEPS, "Steps over which the learning rate rises.")] = None,
    schedule: Annotated[Optional[str], _option(_STEPS, "cosine, linear or constant, after the warm-up.")] = None,
    beta1: Annotated[Optional[float], _option(_STEPS, "Decay of the mean of gradients.")] = None,
    beta2: Annotated[Optional[float], _option(_STEPS, "Decay of the mean of squared gradients.")] = None,
    eps: Annotated[Optional[float], _option(_STEPS, "Added to the root of the second moment.")] = None,
    weight_decay: Annotated[Optional[float], _option(_STEPS, "Decay of matrices (not of biases and norms).")] = None,
    gradient_clip: Annotated[Optional[float], _option(_STEPS, "Largest norm of the gradient; 0: no limit.")] = None,
    label_smoothing: Annotated[Optional[float], _option(_STEPS, "Share of the target spread over all tokens.")] = None,
    checkpoint_activations: Annotated[
        Optional[bool],
        _option(
            _STEPS,
            "Less memory for a third more time: backward computes each block again.",
            "--checkpoint-activations/--no-checkpoint-activations",
        ),
    ] = None,
    eval_interval: Annotated[Optional[int], _option(_EVAL, "Steps between evaluations (and checkpoints).")] = None,
    eval_windows: Annotated[
        Optional[int], _option(_EVAL, "Windows of each split that an evaluation looks at; 0: all.")
    ] = None,
    early_stop: Annotated[
        Optional[int], _option(_EVAL, "Stop after so many evaluations without a better validation loss; 0: never.")
    ] = None,
    sample_tokens: Annotated[Optional[int], _option(_EVAL, "Tokens of sample text at an evaluation; 0: none.")] = None,
) -> None:
    """Train a GPT-2 or a Llama on text, from nothing, and leave a run folder that generates, resumes and opens in transformers.

    Presets: default (byte pairs, about a minute on two cores), shakespeare-char-cpu and shakespeare-char (nanoGPT's
    published runs), llama-small (a Llama, about a minute), fine-tune (for --init), and sizes for a GPU: gpt2, gpt2-medium,
    gpt2-large, gpt2-xl, smollm2-135m, tinyllama, llama-3.2-1b.

    Ctrl-C ends after the current step, saves, and prints the command to resume. At every evaluation the validation loss
    decides which model the folder keeps.
    """
    from minillm.cli import train_progress

    given = {name: value for name, value in context.params.items() if value not in (None, [], ())}
    for name in ("files", "preset", "out", "overwrite", "resume", "stop_after", "device", "profile"):
        given.pop(name, None)
    if files:
        given["data"] = [*(data or []), *files]
    train_progress.train_and_show(
        given,
        preset_name=preset if context.get_parameter_source("preset").name == "COMMANDLINE" else None,
        out=out,
        overwrite=overwrite,
        resume=resume,
        stop_after=stop_after,
        device=device,
        profile=profile,
    )
