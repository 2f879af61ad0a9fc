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

_AFFINE: Table = {"weight": ("w",), "bias": ("b",)}
_NORM: Table = {**_AFFINE, "normed": ("n",), "dnormed": ("g",), "rstd": ("r",)}
_HEADS_IN_CUDA: Table = {"H": ("heads",), "n_kv_head": ("kv_heads",), "T": ("time",)}
_MATRIX_IN_CUDA: Table = {**_HEADS_IN_CUDA, "D": ("width",)}
_ONLINE_IN_CUDA: Table = {**_HEADS_IN_CUDA, "y": ("o",)}
_FLASH_IN_CUDA: Table = {**_ONLINE_IN_CUDA, "p": ("probability",)}
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
    "bias": {"bias": ("b",), "z": ("z", "y")},
    "embedding": {"weight": ("W",), "ids": ("id",)},
    "layer_norm": _NORM,
    "residual_layer_norm": {"total": ("s",)},
    "residual_rms_norm": {"total": ("s",)},
    "residual_bias": {"bias": ("b",)},
    "rms_norm": _NORM,
    "gelu": {"bias": ("b",), "C": ("c",), "A": ("a",), "gate": ("g", "s")},
    "mlp": {"c_fc": ("W_fc",), "c_proj": ("W_proj",)},
    "swiglu": {"gate": ("g",), "up": ("u",)},
    "attention": {"factor": ("f",), "H": ("n_head",)},
    **{f"attention_{name}": {"factor": ("f",)} for name in _RUNGS},
    "softmax": {"m": ("row_max",)},
    "dropout": {"factor": ("m",)},
    "lora": {"a": ("A",), "b": ("B",), "scale": ("s",)},
    "cross_entropy": {"logits": ("z",), "targets": ("t", "target"), "label_smoothing": ("e",), "loss": ("losses",)},
    "linear_cross_entropy": {"weight": ("W",), "targets": ("t",)},
    "adamw": _MOMENTS,
    "adam": _MOMENTS,
    "sgd": {"m": ("momentum",)},
    "lion": {"m": ("momentum",)},
    "muon": {"mu": ("momentum",)},
}
IN_TEXT: dict[str, Table] = {"lora": {"bias": ("b",)}}
IN_CUDA: dict[str, Table] = {
    "layer_norm": {"C": ("width",)},
    "residual_layer_norm": {"total": ("sum",), "dsum": ("dsum",)},
    "residual_rms_norm": {"total": ("sum",), "dsum": ("dsum",)},
    "rms_norm": {"C": ("width",)},
    "gelu": {"dx": ("dz", "gradient"), "x": ("z",)},
    "swiglu": {"s": ("sigmoid",), "dh": ("gradient",)},
    "rotary": {"cos": ("cosine", "c"), "sin": ("sine", "s")},
    "cross_entropy": {"V": ("vocabulary",), "total": ("sum",)},
    "attention": _FLASH_IN_CUDA,
    "attention_naive": _MATRIX_IN_CUDA,
    "attention_tiled": _MATRIX_IN_CUDA,
    "attention_online": _ONLINE_IN_CUDA,
    "attention_flash": _FLASH_IN_CUDA,
    "attention_flash_tensor_cores": _FLASH_IN_CUDA,
    "adamw": {"gradient_scale": ("scale",)},
    "adam": {"gradient_scale": ("scale",)},
    "global_norm": {"norm": ("length",)},
}
