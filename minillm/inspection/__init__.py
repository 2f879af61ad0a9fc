"""Inspection of a model: one forward and backward pass, tensor by tensor.

record(model, ids, targets)       every activation and parameter in numbers            recording.py
observed(model, observer)         callbacks for every layer and operation               observation.py
check_tensor(...)                 one gradient against finite differences               checking.py
forward_passages(tensor), ...     the lines of code that compute it and its gradient     source_lines.py
"""

from minillm.inspection.checking import Check, check_tensor
from minillm.inspection.recording import Record, Tensor, record
from minillm.inspection.text import Closer, Inspection, inspect_tensor, inspect_text

__all__ = [
    "Check",
    "Closer",
    "Inspection",
    "Record",
    "Tensor",
    "check_tensor",
    "inspect_tensor",
    "inspect_text",
    "record",
]
