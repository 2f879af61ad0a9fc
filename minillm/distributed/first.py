"""What rank 0 does alone, while the others wait for it: making a folder, reading a text."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from minillm.distributed.communicator import Communicator

EXIT_CODE = 2  # of the other ranks, as that of an error at the command line


def on_rank_0(communicator: Communicator, make: Callable):
    """make() on rank 0; all ranks get what it returned, a value with a JSON form.

    Raises what `make` raises, and in the other ranks SystemExit: rank 0 says what is wrong.
    """
    if communicator.size == 1:
        return make()
    data, length = np.zeros(0, np.uint8), np.array([-1])
    try:
        if communicator.rank == 0:
            data = np.frombuffer(json.dumps(make()).encode(), np.uint8)
            length[0] = len(data)
    finally:
        communicator.broadcast(length)
        if length[0] < 0:
            communicator.close()
    if length[0] < 0:
        raise SystemExit(EXIT_CODE)
    if communicator.rank > 0:
        data = np.zeros(length[0], np.uint8)
    communicator.broadcast(data)
    return json.loads(data.tobytes())
