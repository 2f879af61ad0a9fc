"""The whole of a model of which each rank has a part (tensor_parallel.py)."""

from __future__ import annotations

from minillm.models.fine_tuning import add_lora


def gathered(model):
    """The whole model, with weights of its own. All ranks that share the model call it, and each
    gets one; a model that is not shared is returned itself.
    """
    if model.sharing is None:
        return model
    whole = type(model)(model.config, seed=None, dtype=model.precision)
    if model.lora is not None:
        add_lora(whole, model.lora)
    whole.carried, whole.body.recompute = model.carried, model.body.recompute
    whole.loss_head.label_smoothing = model.loss_head.label_smoothing
    parts = model.parameters()
    for name, parameter in whole.parameters().items():
        part = parts[name]
        parameter.value = part.value.copy() if part.cut is None else part.cut.whole_of(part.value)
        parameter.frozen = part.frozen
    return whole.train(model.training)
