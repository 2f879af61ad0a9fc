"""GPT-2 under PyTorch's DistributedDataParallel with gloo, as a user of PyTorch would write it."""

from __future__ import annotations

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.torch_gpt2 import TorchTrainer


class _Loss(nn.Module):
    """The loss as a module: DistributedDataParallel wraps a forward."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, targets):
        return self.model.loss(ids, targets)


class DDPTrainer(TorchTrainer):
    """One training step of a rank, with its rows of the batch. With one rank plain PyTorch.

    store: a file in which the ranks find each other.
    """

    def __init__(self, config, rank: int, ranks: int, threads: int, store: str):
        torch.set_num_threads(threads)
        super().__init__(config)
        if ranks > 1:
            distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
            self._loss = DistributedDataParallel(_Loss(self.model))

    def close(self) -> None:
        if distributed.is_initialized():
            distributed.destroy_process_group()
