"""Ranks that are threads of one process: for what is the same on every transport."""

import threading

import numpy as np

from minillm.distributed.communicator import Communicator


class Threads(Communicator):
    """One rank of several; `everyone` is what they share."""

    launched = True

    def __init__(self, rank, everyone):
        super().__init__()
        self.rank, self.size, self._everyone = rank, len(everyone["arrays"]), everyone

    def _exchanged(self, array):
        self._everyone["arrays"][self.rank] = array.copy()
        self.barrier()
        found = list(self._everyone["arrays"])
        self.barrier()
        return found

    def barrier(self):
        self._everyone["barrier"].wait(10)

    def all_gather(self, array, bounds):
        for rank, other in enumerate(self._exchanged(array)):
            array[bounds[rank] : bounds[rank + 1]] = other[bounds[rank] : bounds[rank + 1]]

    def broadcast(self, array, root=0):
        array[...] = self._exchanged(array)[root]

    def sum(self, array):
        array[...] = np.sum(self._exchanged(array), axis=0)

    def maximum(self, array):
        array[...] = np.max(self._exchanged(array), axis=0)

    def reduce_scatter(self, terms, bounds):
        raise NotImplementedError


def on_ranks(size, work):
    """[what work(communicator) returned, or the exception that it raised] of each rank."""
    everyone = {"arrays": [None] * size, "barrier": threading.Barrier(size)}
    results = [None] * size

    def one(rank):
        try:
            results[rank] = work(Threads(rank, everyone))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
