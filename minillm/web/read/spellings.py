"""How a symbol is written elsewhere: the name in Python -> its spellings in derivation and code.

SPELLINGS[operation]    everywhere
IN_TEXT[operation]      in the derivation alone
IN_CUDA[operation]      in the CUDA sources alone

What has another spelling has a gradient with the same one: weight is w, so dweight is dw. What
follows from a rule is not listed: symbols.py takes the indices off (`p_ij` is p), and knows the
endings of names in code (`dy_rows` is dy).
"""

from __future__ import annotations

Table = dict[str, tuple[str, ...]]

_AFFINE: Table = {"weight": ("w", "W"), "bias": ("b",)}
_NORM: Table = {**_AFFINE, "normed": ("n",), "dnormed": ("g",), "rstd": ("r",)}
_ATTENTION: Table = {"factor": ("f",), "n_kv_head": ("H_kv",), "H": ("n_head",)}
_ATTENTION_IN_CUDA: Table = {
    "p": ("probability",),
    "y": ("o",),
    "H": ("heads",),
    "n_kv_head": ("kv_heads",),
    "T": ("time",),
    "D": ("width",),
}
_MOMENTS: Table = {
    "b1": ("beta1",),
    "b2": ("beta2",),
    "g": ("gradient", "gradients"),
    "w": ("value", "values"),
    "m": ("first_moment", "first_moments"),
    "v": ("second_moment", "second_moments"),
    "decay": ("weight_decays",),
    "t": ("step",),
}
_RUNGS = ("naive", "tiled", "online", "flash", "flash_tensor_cores")

SPELLINGS: dict[str, Table] = {
    "linear": _AFFINE,
    "embedding": {"weight": ("W",), "ids": ("id",)},
    "layer_norm": _NORM,
    "residual_layer_norm": {"total": ("s",)},
    "rms_norm": _NORM,
    "gelu": {"bias": ("b",), "C": ("c",), "A": ("a",), "gate": ("g", "s")},
    "mlp": {"c_fc": ("W_fc",), "c_proj": ("W_proj",)},
    "swiglu": {"gate": ("g",), "up": ("u",)},
    "attention": _ATTENTION,
    **{f"attention_{name}": _ATTENTION for name in _RUNGS},
    "dropout": {"factor": ("m",)},
    "lora": {"a": ("A",), "b": ("B",), "scale": ("s",)},
    "cross_entropy": {"logits": ("z",), "targets": ("t", "target"), "label_smoothing": ("e",), "loss": ("losses",)},
    "linear_cross_entropy": {"weight": ("W",), "loss": ("chunk_loss",), "targets": ("t",)},
    "adamw": _MOMENTS,
    "adam": _MOMENTS,
    "sgd": {"m": ("momentum",)},
}
IN_TEXT: dict[str, Table] = {"lora": {"bias": ("b",)}}
IN_CUDA: dict[str, Table] = {
    "layer_norm": {"C": ("width",)},
    "residual_layer_norm": {"total": ("sum",), "dsum": ("dsum",)},
    "rms_norm": {"C": ("width",)},
    "gelu": {"dx": ("dz", "gradient"), "x": ("z",)},
    "swiglu": {"s": ("sigmoid",), "dh": ("gradient",)},
    "rotary": {"cos": ("cosine", "c"), "sin": ("sine", "s")},
    "cross_entropy": {"V": ("vocabulary",), "total": ("sum",)},
    "attention": _ATTENTION_IN_CUDA,
    **{f"attention_{name}": _ATTENTION_IN_CUDA for name in _RUNGS},
    "adamw": {"gradient_scale": ("scale",)},
    "adam": {"gradient_scale": ("scale",)},
    "global_norm": {"norm": ("length",)},
}
