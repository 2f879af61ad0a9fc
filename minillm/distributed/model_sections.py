"""Which parameters of a model belong to which section: below the blocks, each block, above them.

    | below: wte, wpe | block 0: h.0... | block 1: h.1... | ... | above: ln_f, lm_head |

What one block alone uses belongs to it. All else that comes before the blocks, and what is used in
several places, such as an embedding that is the output head as well, belongs below: its gradient is
complete when backward has come to the end. The layout of a run's flat buffer is made of these
sections in any case (layout.py), so that the sums over its cells do not depend on what ranks share.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from minillm.distributed.layout import Layout
from minillm.layers.layer import Layer, Parameter, entries


@dataclass(frozen=True)
class ModelSections:
    """Names of parameters: below, those of each block, above.

    above_first: above is complete before anything below has a gradient.
    """

    names: list[list[str]]
    above_first: bool

    def layout(self, parameters: dict[str, Parameter], whole: bool = False) -> Layout:
        """The layout of those of the parameters that are given. whole: see Layout."""
        names = [[name for name in section if name in parameters] for section in self.names]
        return Layout({name: parameters[name].peek().shape for each in names for name in each}, names, whole)


def sections_of(model) -> ModelSections:
    """The sections of a language model; of another model, which has no blocks, one."""
    blocks, parameters = getattr(model, "blocks", []), model.parameters()
    uses = Counter(id(parameter) for layer in _places(model) for parameter in _own_parameters(layer))
    block_of = {}
    for number, block in enumerate(blocks):
        within = Counter(id(parameter) for layer in _places(block) for parameter in _own_parameters(layer))
        block_of |= {key: number for key, times in within.items() if times == uses[key]}
    below, of_block, above = [], [[] for _ in blocks], []
    seen_block = False
    for name, parameter in parameters.items():
        if id(parameter) in block_of:
            of_block[block_of[id(parameter)]].append(name)
            seen_block = True
        else:
            (above if seen_block and uses[id(parameter)] == 1 else below).append(name)
    return ModelSections([below, *of_block, above], all(uses[id(parameters[name])] == 1 for name in below))


def layout_for(model, optimizer, zero: int = 1) -> Layout:
    """The layout of what an optimizer changes, in the sections of its model: whole parameters for
    one owner where its step is not element by element.

    zero: with 1 ranks own it as one section; the cells are the same, and so is the norm, but there
    is one exchange for all.
    """
    layout = sections_of(model).layout(optimizer.parameters, whole=not is_elementwise(optimizer))
    return layout if zero > 1 else layout.in_one_section()


def is_elementwise(optimizer) -> bool:
    """Whether its class, and none above it, says that each element's step depends on that element
    alone.
    """
    return vars(type(optimizer)).get("elementwise", False)


def _places(model) -> list[Layer]:
    """The layers at all places but the loss head's, which follows the output head."""
    return [layer for path, layer in model.places() if path != "loss_head"]


def _own_parameters(layer: Layer) -> list[Parameter]:
    return [value for _, value in entries(layer) if isinstance(value, Parameter)]
