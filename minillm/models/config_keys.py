"""Every key of a config.json is used, known to change nothing, or refused by its name.

An architecture's file says which keys it uses, and at which values others change nothing. This
file has what every model of Hugging Face may have besides. A key that is left and is not one of
these is refused if it is named like a part of the computation; other keys (who made the model, with
what) have no effect.
"""

from __future__ import annotations

import re

from minillm.errors import UserError

WITHOUT_EFFECT = {  # on what is computed from ids
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_commit_hash",
    "_experts_implementation", "_flash_attn_2_enabled", "_from_model_config", "_name_or_path",
    "architectures", "attn_implementation", "auto_map", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
    "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype", "early_stopping",
    "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "id2label",
    "initializer_range", "initializer_factor", "is_decoder", "is_encoder_decoder", "keys_to_ignore_at_inference", "label2id",
    "length_penalty", "max_length", "max_sequence_length", "max_window_layers", "min_length", "model_max_length",
    "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels", "num_return_sequences",
    "output_attentions", "output_hidden_states", "output_past", "output_scores", "pad_token_id", "pretraining_tp",
    "prefix", "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
    "tf_legacy_loss", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers.js_config",
    "transformers_version", "typical_p", "unk_token_id", "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache",
}  # fmt: skip
NEUTRAL = {  # at these values
    "add_cross_attention": (False,), "chunk_size_feed_forward": (0,), "is_causal": (True,), "num_experts": (0,),
    "num_local_experts": (0,), "residual_multiplier": (1, 1.0), "embedding_multiplier": (1, 1.0), "logits_scaling": (1, 1.0),
    "logit_scale": (1, 1.0), "partial_rotary_factor": (1, 1.0), "rotary_pct": (1, 1.0),
}  # fmt: skip
QUANTISED_WAY_OUT = "minillm opens weights of 16 to 64 bits here; get the model unquantised, or as a GGUF file"
OF_TRAINING = re.compile("dropout|_pdrop$|^summary_|loss|^initializer")
QUANTISED = ("quantization_config", "quantization", "compression_config")
COMPUTES = re.compile(
    r"rope|rotary|scal|window|expert|moe|router|cap|norm|bias|act|multiplier|attention|attn|layer|head|position|embed|logit|"
    r"residual|gate|gating|alibi|sparse|sparsity|clip|clamp|factor|parallel|mask|tie|tying|shar|hidden|intermediate|"
    r"mixture|mlp|ffn|conv|state|ssm|recurr|temperature|eps|theta|adapter|lora|prompt|vision|audio|dim|width|depth|block"
)


def check_keys(contents: dict, used, neutral: dict[str, tuple] | None = None) -> None:
    """Raises UserError for a key that changes the computation in a way that is not known here.

    used: the keys that are read; neutral: key -> values at which it changes nothing.
    """
    for name in QUANTISED:
        if contents.get(name):
            raise UserError(f"this is a quantised folder ({_method(contents[name])}, {name}): {QUANTISED_WAY_OUT}")
    neutral = {**NEUTRAL, **(neutral or {})}
    for name, value in contents.items():
        if value is None or name in used or name in WITHOUT_EFFECT or OF_TRAINING.search(name):
            continue
        if name in neutral:
            if any(type(value) is type(allowed) and value == allowed for allowed in neutral[name]):
                continue
        elif value is False or value in ("", [], {}) or not COMPUTES.search(name.lower()):
            continue
        if re.search("expert|moe", name):
            raise UserError(f"it is a mixture of experts ({name} is {value!r:.99}), which minillm does not compute")
        raise UserError(f"{name} is {value!r:.99}, which minillm does not compute")


def check_heads_of(contents: dict) -> None:
    """Raises UserError for a model with another head than one that scores tokens, or with a program
    of its own.
    """
    names = contents.get("architectures")
    names = names if isinstance(names, list) else []
    for name in names:
        if isinstance(name, str) and not name.endswith(("ForCausalLM", "LMHeadModel", "Model")):
            raise UserError(
                f"architectures names {name!r:.99}: minillm opens models whose head scores tokens (ForCausalLM)"
            )
    programs = contents.get("auto_map")
    if isinstance(programs, dict) and (own := [n for n in programs if n in ("AutoModel", "AutoModelForCausalLM")]):
        raise UserError(f"auto_map names a program of the folder's own for {own[0]}, which minillm does not run")


def _method(contents) -> str:
    """The name of the way in which a folder was quantised."""
    if not isinstance(contents, dict):
        return "unknown method"
    if "group_size" in contents and "quant_method" not in contents:
        return "MLX"
    return str(contents.get("quant_method") or contents.get("quant_type") or "unknown method")[:40]
