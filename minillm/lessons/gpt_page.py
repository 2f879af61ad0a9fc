"""A GPT on one page: the model, its loss, every gradient, AdamW, and writing. It needs only NumPy.

    python -m minillm.lessons.gpt_page     trains it on this very page, in 15 seconds, and writes

A text is a row of numbers, its tokens (here a character is a token). The model reads the tokens up
to some place and gives every token of its vocabulary a probability of coming next. Training makes
those that really came likelier. The gradient of a weight says which way to change it: how much the
loss rises when the weight rises a little. The chain rule gives all gradients in one pass backwards:
each part is followed by its backward function, which takes dy, the gradient of the loss by the
part's result y, and returns those of its inputs. Above each gradient is its forward line, quoted.

Letters: B texts at a time, T tokens in each, C numbers for each token, H heads of D = C / H of
them, V tokens in the vocabulary; (B, T, C) is a shape. Source: Radford et al., "Language Models are
Unsupervised Multitask Learners" (GPT-2, 2019).
"""

import numpy as np

# ----------------------------------------------------------------------- the parts, forward and backward


def linear(x, weight, bias):
    """Each output is a weighted sum of the inputs.  x (B, T, I), weight (I, O)  ->  (B, T, O)"""
    return x @ weight + bias


def linear_backward(dy, x, weight):
    # forward: x @ weight + bias: all tokens share weight and bias, so sum over tokens
    dx = dy @ weight.T
    dweight = np.einsum("bti,bto->io", x, dy, optimize=True)
    dbias = dy.sum(axis=(0, 1))
    return dx, dweight, dbias


def layer_norm(x, weight, bias):
    """Give each token mean 0 and variance 1, then scale and shift.  x (B, T, C)  ->  y (B, T, C), cache"""
    rstd = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    n = (x - x.mean(axis=-1, keepdims=True)) * rstd
    return n * weight + bias, (n, rstd, weight)


def layer_norm_backward(dy, cache):
    n, rstd, weight = cache
    # forward: n * weight + bias
    dweight, dbias, dn = (dy * n).sum(axis=(0, 1)), dy.sum(axis=(0, 1)), dy * weight
    # forward: rstd = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    # forward: n = (x - x.mean(axis=-1, keepdims=True)) * rstd: each takes a direction out of dn
    dx = rstd * (dn - dn.mean(axis=-1, keepdims=True) - n * (dn * n).mean(axis=-1, keepdims=True))
    return dx, dweight, dbias


def softmax(x):
    """Scores to probabilities: exp(x) / sum of exp(x). Subtracting the largest avoids overflow."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention(qkv, heads):
    """Tokens read one another: y averages v by how q fits k.  (B, T, 3C) -> (B, T, C), cache"""
    B, T, C3 = qkv.shape
    q, k, v = qkv.reshape(B, T, 3, heads, -1).transpose(2, 0, 3, 1, 4)  # 3 of (B, H, T, D)
    s = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[3])  # (B, H, T, D) @ (B, H, D, T): a score for each pair of tokens
    s = np.where(np.tri(T, dtype=bool), s, -np.inf)  # no token sees a later one
    p = softmax(s)  # (B, H, T, T)
    y = p @ v  # (B, H, T, T) @ (B, H, T, D)
    return y.transpose(0, 2, 1, 3).reshape(B, T, C3 // 3), (q, k, v, p)


def attention_backward(dy, cache):
    q, k, v, p = cache
    B, H, T, D = q.shape
    # forward: y = p @ v; y.transpose(0, 2, 1, 3)
    dy = dy.reshape(B, T, H, D).transpose(0, 2, 1, 3)
    dp, dv = dy @ v.swapaxes(2, 3), p.swapaxes(2, 3) @ dy
    # forward: p = softmax(s); e / e.sum(axis=-1, keepdims=True): dp_j/ds_i = p_j ((i = j) - p_i)
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True))
    # forward: s = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[3])
    dq, dk = ds @ k / np.sqrt(D), ds.swapaxes(2, 3) @ q / np.sqrt(D)
    # forward: q, k, v = qkv.reshape(B, T, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    return np.stack((dq, dk, dv)).transpose(1, 3, 0, 2, 4).reshape(B, T, 3 * H * D)


def gelu(x):
    """A soft switch: passes large numbers on, and gives 0 for those far below 0."""
    gate = 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * x * (1 + 0.044715 * x * x)))
    return x * gate, (x, gate)


def gelu_backward(dy, cache):
    x, gate = cache
    # forward: gate = 0.5 * (1 + np.tanh(...)); x * gate: y' = gate + x gate', 2 gate (1 - gate) u'
    return dy * (gate + x * 2 * gate * (1 - gate) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x * x))


def cross_entropy(logits, targets):
    """Mean of -log p(target).  logits (B, T, V), targets (B, T)  ->  loss, dlogits (B, T, V)"""
    p = softmax(logits)
    row, place = np.indices(targets.shape)
    loss = -np.log(p[row, place, targets]).mean()
    # forward: softmax(logits); -np.log(p[row, place, targets]).mean(): p - 1 at the target, else p
    p[row, place, targets] -= 1
    return loss, p / targets.size


# ------------------------------------------------------------------------------------------------------------ the model


def new_weights(V, T, C, layers, rng):
    """Small random weights: 0.02 for C = 768 (GPT-2), less where the results are added to x."""
    std = 0.55 / np.sqrt(C)
    w = {"wte.weight": rng.normal(0, std, (V, C)), "wpe.weight": rng.normal(0, std, (T, C))}
    sizes = {"attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C), "mlp.c_fc": (C, 4 * C), "mlp.c_proj": (4 * C, C)}
    for i in range(layers):
        for name, shape in sizes.items():
            shrink = np.sqrt(2 * layers) if name.endswith("c_proj") else 1
            w[f"h.{i}.{name}.weight"], w[f"h.{i}.{name}.bias"] = rng.normal(0, std / shrink, shape), np.zeros(shape[1])
        for name in "ln_1", "ln_2":
            w[f"h.{i}.{name}.weight"], w[f"h.{i}.{name}.bias"] = np.ones(C), np.zeros(C)
    return w | {"ln_f.weight": np.ones(C), "ln_f.bias": np.zeros(C)}


def pair(w, name):
    return w[f"{name}.weight"], w[f"{name}.bias"]


def forward(w, ids, heads):
    """ids (B, T)  ->  logits (B, T, V), a score for each possible next token; and saved"""
    x = w["wte.weight"][ids] + w["wpe.weight"][: ids.shape[1]]  # which token + at which place: (B, T, C)
    blocks, i = [], 0
    while f"h.{i}.ln_1.weight" in w:
        n1, norm1 = layer_norm(x, *pair(w, f"h.{i}.ln_1"))
        y, attn_cache = attention(linear(n1, *pair(w, f"h.{i}.attn.c_attn")), heads)
        x = x + linear(y, *pair(w, f"h.{i}.attn.c_proj"))  # information from other tokens is added to x
        n2, norm2 = layer_norm(x, *pair(w, f"h.{i}.ln_2"))
        a, gelu_cache = gelu(linear(n2, *pair(w, f"h.{i}.mlp.c_fc")))
        x = x + linear(a, *pair(w, f"h.{i}.mlp.c_proj"))  # and what each token computes on its own
        blocks.append((norm1, n1, attn_cache, y, norm2, n2, gelu_cache, a))
        i += 1
    n, norm = layer_norm(x, *pair(w, "ln_f"))
    return n @ w["wte.weight"].T, (ids, blocks, n, norm)  # (B, T, C) @ (C, V)


def backward(w, dlogits, saved):
    """dlogits (B, T, V)  ->  the gradient of every weight, by name: `forward` in reverse order"""
    ids, blocks, n, norm = saved
    g = {name: np.zeros_like(value) for name, value in w.items()}

    def record(name, gradients):
        # forward: pair(w, "ln_f"): and every pair; stores its gradients, and returns that of x
        dx, g[f"{name}.weight"], g[f"{name}.bias"] = gradients
        return dx

    # forward: n @ w["wte.weight"].T; n, norm = layer_norm(x, *pair(w, "ln_f"))
    g["wte.weight"] += np.einsum("btv,btc->vc", dlogits, n, optimize=True)
    dx = record("ln_f", layer_norm_backward(dlogits @ w["wte.weight"], norm))
    for i in reversed(range(len(blocks))):
        norm1, n1, attn_cache, y, norm2, n2, gelu_cache, a = blocks[i]
        # forward: x = x + linear(a, *pair(w, f"h.{i}.mlp.c_proj")): dx passes unchanged
        da = record(f"h.{i}.mlp.c_proj", linear_backward(dx, a, w[f"h.{i}.mlp.c_proj.weight"]))
        # forward: a, gelu_cache = gelu(linear(n2, *pair(w, f"h.{i}.mlp.c_fc")))
        dn2 = record(f"h.{i}.mlp.c_fc", linear_backward(gelu_backward(da, gelu_cache), n2, w[f"h.{i}.mlp.c_fc.weight"]))
        # forward: n2, norm2 = layer_norm(x, *pair(w, f"h.{i}.ln_2")): the branch adds its gradient
        dx = dx + record(f"h.{i}.ln_2", layer_norm_backward(dn2, norm2))
        # forward: x = x + linear(y, *pair(w, f"h.{i}.attn.c_proj"))
        dattn = record(f"h.{i}.attn.c_proj", linear_backward(dx, y, w[f"h.{i}.attn.c_proj.weight"]))
        # forward: y, attn_cache = attention(linear(n1, *pair(w, f"h.{i}.attn.c_attn")), heads)
        dqkv = attention_backward(dattn, attn_cache)
        dn1 = record(f"h.{i}.attn.c_attn", linear_backward(dqkv, n1, w[f"h.{i}.attn.c_attn.weight"]))
        # forward: n1, norm1 = layer_norm(x, *pair(w, f"h.{i}.ln_1"))
        dx = dx + record(f"h.{i}.ln_1", layer_norm_backward(dn1, norm1))
    # forward: w["wte.weight"][ids] + w["wpe.weight"][: ids.shape[1]]: repeated tokens get the sum
    np.add.at(g["wte.weight"], ids, dx)
    g["wpe.weight"][: ids.shape[1]] += dx.sum(axis=0)
    return g


# -------------------------------------------------------------------------------------------------- training and writing


def adamw(w, g, m, v, step, lr, b1=0.9, b2=0.99, eps=1e-8, decay=0.1):
    """Loshchilov, Hutter (2019): move weights against the mean gradient m by its size sqrt(v)."""
    for name in w:
        m[name] = b1 * m[name] + (1 - b1) * g[name]
        v[name] = b2 * v[name] + (1 - b2) * g[name] ** 2
        mean, square = m[name] / (1 - b1**step), v[name] / (1 - b2**step)  # both start at 0
        pull = decay * w[name] if w[name].ndim == 2 else 0  # matrices also shrink towards 0
        w[name] = w[name] - lr * (mean / (np.sqrt(square) + eps) + pull)


def get_batch(ids, B, T, rng):
    """Random pieces of the text ids (N,), and the token after each token  ->  two arrays (B, T)"""
    windows = ids[rng.integers(0, len(ids) - T, (B, 1)) + np.arange(T + 1)]
    return windows[:, :-1], windows[:, 1:]


def train(w, ids, steps, heads, rng, B=16, lr=5e-3):
    """Change w to make the text ids (N,) likelier, B pieces a step; yields each step's loss."""
    m, v = ({name: np.zeros_like(value) for name, value in w.items()} for _ in "mv")
    for step in range(1, steps + 1):
        inputs, targets = get_batch(ids, B, len(w["wpe.weight"]), rng)
        logits, saved = forward(w, inputs, heads)
        loss, dlogits = cross_entropy(logits, targets)
        adamw(w, backward(w, dlogits, saved), m, v, step, lr_at(lr, step, steps))
        yield loss


def lr_at(lr, step, steps):
    """For step 1 ... steps: it rises to lr while m and v fill, and falls so that w settles."""
    return lr * min(1, step / 20, 1.5 * (steps - step + 1) / steps)


def sample(p, number):
    """The token whose share of [0, 1), in proportion to p (V,), contains `number`."""
    shares = np.cumsum(p)
    return np.searchsorted(shares, number * shares[-1], side="right")


def generate(w, ids, count, heads, rng, temperature=0.7):
    """Continue ids (N,) by `count` tokens -> (N + count,); temperature < 1 prefers likely ones."""
    for _ in range(count):
        logits, _ = forward(w, ids[None, -len(w["wpe.weight"]) :], heads)
        ids = np.append(ids, sample(softmax(logits[0, -1] / temperature), rng.random()))
    return ids


def main(text, steps=300, T=32, C=64, layers=2, heads=4):
    """Train on a text of some thousand characters, then write a similar one."""
    alphabet, ids = np.unique(list(text), return_inverse=True)
    rng = np.random.default_rng(0)
    w = new_weights(len(alphabet), T, C, layers, rng)
    print(f"{len(text):,} characters, {len(alphabet)} different ones, {sum(a.size for a in w.values()):,} weights")
    for step, loss in enumerate(train(w, ids, steps, heads, rng)):
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:4}  loss {loss:.3f}: as unsure as between {np.exp(loss):.1f} equally likely characters")
    print("".join(alphabet[generate(w, ids[:1], 400, heads, rng)]))


if __name__ == "__main__":
    main(open(__file__, encoding="utf-8").read())
