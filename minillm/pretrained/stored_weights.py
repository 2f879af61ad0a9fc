"""Opening a model whose matrices stay as its file holds them (layers/stored_weight.py).

    weights="expanded"              float32 or float64 arrays
    weights="stored"                what has 16 bits or fewer in the file stays as it is
    weights="float16", "bfloat16"   the same, and wider matrices are rounded to it when they are opened

Norms, biases and what the file has in another type are arrays, as they always are.
"""

from __future__ import annotations

import numpy as np

from minillm.errors import UserError
from minillm.files.number_formats import FORMATS
from minillm.files.number_types import stored
from minillm.files.safetensors_file import StoredTensor
from minillm.layers.stored_product import blocks_of_rows
from minillm.layers.stored_weight import StoredWeight
from minillm.models.language_model import LanguageModel

EXPANDED, STORED = "expanded", "stored"
ROUNDED = {"float16": ("F16", "f16"), "bfloat16": ("BF16", "bf16")}  # -> format, number type
WEIGHTS = (EXPANDED, STORED, *ROUNDED)


def check_weights(weights: str, dtype) -> None:
    """Raises UserError for a name that is none of WEIGHTS, and for weights that are kept in another
    precision than float32.
    """
    if weights not in WEIGHTS:
        raise UserError(f'unknown weights "{weights}": use one of {", ".join(WEIGHTS)}')
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    if weights != EXPANDED and name != "float32":
        raise UserError(f"weights {weights} are expanded to float32 as they are used, not to {name}")


def stored_matrix(tensor: StoredTensor) -> StoredWeight | None:
    """A matrix of a safetensors file as it is stored there; None for what has no format of
    FORMATS. Raises UserError for numbers that are not finite.
    """
    if len(tensor.shape) != 2 or tensor.dtype not in FORMATS:
        return None
    weight = StoredWeight(tensor.rows_of_bytes(), FORMATS[tensor.dtype])
    check_finite(weight, f"{tensor.path}: tensor {tensor.name}")
    return weight


def check_finite(weight: StoredWeight, what: str) -> None:
    """Raises UserError for a weight with a NaN or an infinity."""
    if (where := weight.first_not_finite()) is not None:
        raise UserError(f"{what} is not finite at {where}")


def fill(model: LanguageModel, stored_of, read) -> LanguageModel:
    """Give each parameter its value: `stored_of(name)`, frozen, where that is not None, else
    `read(name, dtype)`.
    """
    for name, parameter in model.parameters().items():
        if (weight := stored_of(name)) is None:
            parameter.value = read(name, parameter.value.dtype)
        else:
            parameter.value, parameter.frozen = weight, True
    return model.eval()


def round_matrices(model: LanguageModel, weights: str) -> None:
    """With "float16" or "bfloat16": keep all matrices that are arrays in 16 bits."""
    if weights not in ROUNDED:
        return
    name_of_format, number_type = ROUNDED[weights]
    for name, parameter in model.parameters().items():
        value = parameter.peek()
        if isinstance(value, np.ndarray) and value.ndim == 2:
            rounded = np.empty(value.shape, np.uint16)
            for start, stop in blocks_of_rows(*value.shape):
                rounded[start:stop] = stored(value[start:stop], number_type, name).view(np.uint16)
            parameter.value, parameter.frozen = StoredWeight(rounded.view(np.uint8), FORMATS[name_of_format]), True
