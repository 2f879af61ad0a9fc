"""GPT-2 and Llama (with Qwen3's norms) written down in PyTorch's plain operations, one tensor a line.

Each tensor has a name and keeps its gradient, as in part 4 of makemore: afterwards autograd has the gradient of every one.
Nothing is shared with minillm but the weights and the names of its layers.
"""

from __future__ import annotations

import math

import numpy as np
import torch


class Twin:
    """`pass_of(model, ids, targets)`: the named tensors of one forward and backward pass in float64.

    t: name -> tensor, with its gradient. Names are those that `minillm inspect` shows, and more: what lies inside of
    an operation is named after its layer, h.0.attn.scores. parameters: by the name of minillm.
    """

    def __init__(self, model):
        self.config, self.name = model.config, model.body_name
        prefix = f"{model.body_name}."
        self.parameters = {
            name.removeprefix(prefix): torch.tensor(np.array(p.value), dtype=torch.float64, requires_grad=True)
            for name, p in model.parameters().items()
        }
        self.t: dict[str, torch.Tensor] = {}

    def keep(self, name: str, tensor):
        tensor.retain_grad()
        self.t[name] = tensor
        return tensor

    def parameter(self, name: str):
        """None for a bias that the model does not have."""
        return self.parameters.get(name)

    def read_in_turn(self, x, *layers) -> dict:
        """x for several layers that read it. The gradient of what a layer reads contains that of the layers before it:
        the order in which minillm adds them up.
        """
        found = {}
        for layer in reversed(layers):
            x = found[layer] = x.clone()
        return {layer: found[layer] for layer in layers}

    # ------------------------------------------------------------------------------------------------ parts of both

    def linear(self, name, x, transposed):
        x = self.keep(f"{name}.x", x.clone())  # what this layer reads
        weight, bias = self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")
        y = x @ (weight.T if transposed else weight)
        return self.keep(name, y if bias is None else y + bias)

    def attention(self, name, q, k, v):
        """q (B, H, T, D), k and v (B, H_kv, T, D)  ->  (B, T, H D)"""
        keep, groups, T = self.keep, q.shape[1] // k.shape[1], q.shape[2]
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        keep(f"{name}.k_repeated", k), keep(f"{name}.v_repeated", v)
        products = keep(f"{name}.products", q @ k.transpose(-1, -2))
        scores = keep(f"{name}.scores", products / math.sqrt(q.shape[-1]))
        above = torch.ones(T, T, dtype=torch.bool).triu(1)
        masked = keep(f"{name}.masked", scores.masked_fill(above, -math.inf))
        p = keep(f"{name}.p", torch.softmax(masked, dim=-1))
        y = keep(f"{name}.attention", p @ v)
        return y.transpose(1, 2).flatten(2)  # the heads side by side

    def residual(self, name, x, branch):
        return self.keep(name, x + branch)

    def loss(self, x, weight, targets):
        keep = self.keep
        logits = keep("logits", (x @ weight.T).reshape(-1, len(weight)))
        shifted = keep("loss.shifted", logits - logits.max(dim=-1, keepdim=True).values)
        exponentials = keep("loss.exponentials", shifted.exp())
        total = keep("loss.total", exponentials.sum(dim=-1))
        keep("loss.probabilities / count", exponentials / total[:, None] / len(targets))
        at_target = keep("loss.at_target", shifted[torch.arange(len(targets)), targets])
        losses = keep("loss.losses", total.log() - at_target)
        return keep("loss", losses.mean())


class GPT2Twin(Twin):
    def run(self, ids, targets):
        """ids and targets (B, T): the pass, forward and backward."""
        keep, p, config = self.keep, self.parameters, self.config
        ids, targets = torch.as_tensor(ids), torch.as_tensor(targets).reshape(-1)
        wte, wpe = keep("wte", p["wte.weight"][ids]), keep("wpe", p["wpe.weight"][: ids.shape[1]])
        x = keep("embd_dropout", wte + wpe)
        for block in (f"h.{index}" for index in range(config.n_layer)):
            qkv = self.linear(f"{block}.attn.c_attn", self.layer_norm(f"{block}.ln_1", x), False)
            parts = qkv.split(config.d_model, dim=-1)
            q, k, v = (part.unflatten(-1, (config.n_head, -1)).transpose(1, 2) for part in parts)
            heads = [keep(f"{block}.attn.{name}", part) for name, part in zip("qkv", (q, k, v))]
            merged = self.attention(f"{block}.attn", *heads)
            x = self.residual(f"{block}.residual", x, self.linear(f"{block}.attn.c_proj", merged, False))
            x = self.residual(block, x, self.mlp(f"{block}.mlp", self.layer_norm(f"{block}.ln_2", x)))
        x = self.layer_norm("ln_f", x)
        self.loss(x, p["wte.weight"] if config.tie_embeddings else p["lm_head.weight"], targets).backward()
        return self

    def layer_norm(self, name, x):
        keep, bias = self.keep, self.parameter(f"{name}.bias")
        x = keep(f"{name}.x", x.clone())  # what this norm reads, apart from the stream that goes on
        centered = keep(f"{name}.centered", x - x.mean(dim=-1, keepdim=True))
        variance = keep(f"{name}.variance", centered.square().mean(dim=-1))
        rstd = keep(f"{name}.rstd", 1 / (variance + self.config.layer_norm_eps).sqrt())
        normed = keep(f"{name}.normed", centered * rstd[..., None])
        scaled = keep(f"{name}.scaled", normed * self.parameter(f"{name}.weight"))
        return keep(name, scaled.clone() if bias is None else scaled + bias)

    def mlp(self, name, x):
        keep, bias = self.keep, self.parameter(f"{name}.c_fc.bias")
        x = keep(f"{name}.c_fc.x", x.clone())
        z = keep(f"{name}.c_fc", x @ self.parameter(f"{name}.c_fc.weight"))
        z = keep(f"{name}.before", z.clone() if bias is None else z + bias)
        if self.config.activation == "gelu":
            gate = keep(f"{name}.gate", 0.5 * (1 + torch.erf(z / math.sqrt(2))))
        else:
            u = keep(f"{name}.u", math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))
            gate = keep(f"{name}.gate", 0.5 * (1 + torch.tanh(u)))
        return self.linear(f"{name}.c_proj", keep(f"{name}.gelu", z * gate), False)


class LlamaTwin(Twin):
    """Qwen3 as well: with norms of every head's query and key."""

    def run(self, ids, targets):
        """ids and targets (B, T): the pass, forward and backward."""
        keep, p = self.keep, self.parameters
        ids, targets = torch.as_tensor(ids), torch.as_tensor(targets).reshape(-1)
        x = keep("embed_tokens", p["embed_tokens.weight"][ids])
        for block in (f"layers.{index}" for index in range(self.config.n_layer)):
            attended = self.self_attention(f"{block}.self_attn", self.rms_norm(f"{block}.input_layernorm", x))
            x = self.residual(f"{block}.residual", x, attended)
            x = self.residual(
                block, x, self.swiglu(f"{block}.mlp", self.rms_norm(f"{block}.post_attention_layernorm", x))
            )
        x = self.rms_norm("norm", x)
        tied = self.config.tie_embeddings
        self.loss(x, p["embed_tokens.weight"] if tied else p["lm_head.weight"], targets).backward()
        return self

    def rms_norm(self, name, x):
        keep = self.keep
        x = keep(f"{name}.x", x.clone())
        rstd = keep(f"{name}.rstd", 1 / (x.square().mean(dim=-1) + self.config.rms_norm_eps).sqrt())
        normed = keep(f"{name}.normed", x * rstd[..., None])
        return keep(name, normed * self.parameter(f"{name}.weight"))

    def self_attention(self, name, x):
        heads, read = [], self.read_in_turn(x, *(f"{name}.{part}_proj" for part in "qkv"))
        for part in "qkv":
            each = self.linear(f"{name}.{part}_proj", read[f"{name}.{part}_proj"], True)
            each = each.unflatten(-1, (-1, self.config.head_dim))  # (B, T, H, D)
            if self.parameter(f"{name}.{part}_norm.weight") is not None:
                each = self.rms_norm(f"{name}.{part}_norm", each)
            each = each.transpose(1, 2)
            if part != "v":
                each = self.rotated(each)
            heads.append(self.keep(f"{name}.{part}", each))
        return self.linear(f"{name}.o_proj", self.attention(name, *heads), True)

    def rotated(self, x):
        """The pairs (i, i + D/2) as complex numbers, turned by their angle."""
        D = x.shape[-1]
        theta = self.config.rope_theta ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
        angle = torch.arange(x.shape[-2], dtype=torch.float64)[:, None] * theta
        turned = torch.complex(x[..., : D // 2], x[..., D // 2 :]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([turned.real, turned.imag], dim=-1)

    def swiglu(self, name, x):
        keep = self.keep
        names = f"{name}.gate_proj", f"{name}.up_proj"
        gate, up = (self.linear(each, x, True) for each, x in self.read_in_turn(x, *names).items())
        sigmoid = keep(f"{name}.sigmoid", torch.sigmoid(gate))
        silu = keep(f"{name}.silu", gate * sigmoid)
        return self.linear(f"{name}.down_proj", keep(f"{name}.swiglu", silu * up), True)


def pass_of(model, ids, targets) -> Twin:
    """One pass of the twin of a minillm GPT2, Llama or Qwen3."""
    return (GPT2Twin if model.model_type == "gpt2" else LlamaTwin)(model).run(ids, targets)
