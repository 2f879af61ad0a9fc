"""GPT-2 in PyTorch, as a user of PyTorch would write it: the peer that the training step is measured against."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        c, bias = config.d_model, config.bias
        self.n_head = config.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(c, bias=bias), nn.LayerNorm(c, bias=bias)
        self.c_attn, self.c_proj = nn.Linear(c, 3 * c, bias=bias), nn.Linear(c, c, bias=bias)
        self.c_fc, self.c_out = nn.Linear(c, config.d_ff, bias=bias), nn.Linear(config.d_ff, c, bias=bias)

    def forward(self, x):
        batch, time, channels = x.shape
        qkv = self.c_attn(self.ln_1(x)).view(batch, time, 3, self.n_head, channels // self.n_head)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # (B, H, T, D)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(batch, time, channels))
        return x + self.c_out(functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class TorchGPT2(nn.Module):
    """A GPT-2 with tied embeddings and no dropout, of a minillm.GPT2Config."""

    def __init__(self, config):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.d_model)
        self.wpe = nn.Embedding(config.context_length, config.d_model)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.d_model, bias=config.bias)
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                residual = name.endswith(("c_proj.weight", "c_out.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def loss(self, ids, targets):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        logits = functional.linear(self.ln_f(x), self.wte.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class TorchTrainer:
    """One training step: loss, backward, clipping by global norm, fused AdamW with decay on matrices only.

    dtype: "float32" (TF32 off), "tf32", or "bfloat16": autocast, with float32 weights. compiled: the loss
    through torch.compile.
    """

    def __init__(
        self, config, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, device="cpu", dtype="float32", compiled=False
    ):
        self.device, self.dtype = device, dtype
        self.model = TorchGPT2(config).to(device)
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
        self._loss = torch.compile(self.model.loss) if compiled else self.model.loss

    def step(self, ids, targets) -> None:
        torch.set_float32_matmul_precision("high" if self.dtype == "tf32" else "highest")
        ids, targets = self._placed(ids), self._placed(targets)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            loss = self._loss(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _placed(self, array):
        """On a GPU through pinned memory, so that the host does not wait for the copy."""
        tensor = torch.from_numpy(array)
        return tensor if self.device == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_memory(self, ids, targets) -> int | None:
        """Bytes of tensors at the peak of a step, by PyTorch's allocator; None on the CPU, where it keeps no account."""
        if self.device == "cpu":
            return None
        held = [*self.model.parameters()]
        held += [value for state in self.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.step(ids, targets)
        self.wait()
        return torch.cuda.max_memory_allocated() - before + sum(tensor.nbytes for tensor in held if tensor.is_cuda)
