"""Forward and backward passes as people write them, in the styles of public courses, books and repositories.

Each has a right version, and a fault to put in: (text that occurs once, what it reads instead), with
the tensor whose gradient is then found to be wrong.
"""

from __future__ import annotations

from typing import NamedTuple


class Style(NamedTuple):
    """source: of a module. name: what is checked in it. right, wrong: the fault; tensor: where it shows.
    line: text of the line that is named as the first wrong one, "" where it cannot be known. shapes: of
    the inputs, some of them.
    """

    source: str
    name: str
    right: str
    wrong: str
    tensor: str
    line: str = ""
    shapes: str = ""


STYLES = {
    "course, functions with a cache": Style(
        '''
import numpy as np

def affine_forward(x, w, b):
    """
    Forward pass of a fully connected layer.

    Inputs:
    - x: A numpy array with a minibatch, of shape
      (N, d_1, ..., d_k); D = d_1 * ... * d_k
    - w: Weights, of shape (D, M)
    - b: Biases, of shape (M,)

    Returns a tuple of:
    - out: of shape (N, M)
    - cache: (x, w, b)
    """
    out = x.reshape(x.shape[0], -1).dot(w) + b
    cache = (x, w, b)
    return out, cache

def affine_backward(dout, cache):
    x, w, b = cache
    dx, dw, db = None, None, None
    dx = dout.dot(w.T).reshape(x.shape)
    dw = x.reshape(x.shape[0], -1).T.dot(dout)
    db = np.sum(dout, axis=0)
    return dx, dw, db
''',
        "affine",
        "db = np.sum(dout, axis=0)",
        "db = np.mean(dout, axis=0)",
        "b",
        "db = np.mean(dout, axis=0)",
        "x (3, 4, 5), w (20, 6), b (6,)",
    ),
    "course, batch norm with a dict of settings": Style(
        '''
import numpy as np

def batchnorm_forward(x, gamma, beta, bn_param):
    """
    Input:
    - x: Data of shape (N, D)
    - gamma: Scale parameter of shape (D,)
    - beta: Shift paremeter of shape (D,)
    - bn_param: Dictionary with the following keys:
      - mode: 'train' or 'test'; required
      - running_mean: Array of shape (D,) giving running mean of features
    """
    mode = bn_param["mode"]
    eps, momentum = bn_param.get("eps", 1e-5), bn_param.get("momentum", 0.9)
    N, D = x.shape
    running_mean = bn_param.get("running_mean", np.zeros(D, dtype=x.dtype))
    running_var = bn_param.get("running_var", np.zeros(D, dtype=x.dtype))
    if mode == "train":
        mean = x.mean(axis=0)
        xmu = x - mean
        var = np.mean(xmu**2, axis=0)
        std = np.sqrt(var + eps)
        xhat = xmu / std
        out = gamma * xhat + beta
        cache = (xhat, xmu, std, gamma)
        running_mean = momentum * running_mean + (1 - momentum) * mean
        running_var = momentum * running_var + (1 - momentum) * var
    else:
        out, cache = gamma * (x - running_mean) / np.sqrt(running_var + eps) + beta, None
    bn_param["running_mean"], bn_param["running_var"] = running_mean, running_var
    return out, cache

def batchnorm_backward(dout, cache):
    xhat, xmu, std, gamma = cache
    N = dout.shape[0]
    dbeta = dout.sum(axis=0)
    dgamma = (dout * xhat).sum(axis=0)
    dxhat = dout * gamma
    dstd = -(dxhat * xmu).sum(axis=0) / std**2
    dvar = 0.5 * dstd / std
    dxmu = dxhat / std + 2 * xmu * dvar / N
    dmean = -dxmu.sum(axis=0)
    dx = dxmu + dmean / N
    return dx, dgamma, dbeta
''',
        "batchnorm",
        "dvar = 0.5 * dstd / std",
        "dvar = dstd / std",
        "x",
        "dvar = dstd / std",
        "x (3, 4), gamma (4,), beta (4,)",
    ),
    "course, dropout with hidden random numbers": Style(
        """
import numpy as np

def dropout_forward(x, dropout_param):
    p, mode = dropout_param["p"], dropout_param["mode"]
    mask = None
    if mode == "train":
        mask = (np.random.rand(*x.shape) < p) / p
        out = x * mask
    elif mode == "test":
        out = x
    cache = (dropout_param, mask)
    return out, cache

def dropout_backward(dout, cache):
    dropout_param, mask = cache
    if dropout_param["mode"] == "train":
        dx = dout * mask
    return dx
""",
        "dropout",
        "dx = dout * mask",
        "dx = dout * (mask > 0)",
        "x",
        "dx = dout * (mask > 0)",
    ),
    "course, a loss that returns its gradient": Style(
        '''
import numpy as np

def softmax_loss(x, y):
    """
    - x: Scores, of shape (N, C)
    - y: Vector of labels, of shape (N,) where y[i] is the label for x[i] and 0 <= y[i] < C
    """
    N = x.shape[0]
    shifted = x - np.max(x, axis=1, keepdims=True)
    log_probs = shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))
    probs = np.exp(log_probs)
    loss = -np.sum(log_probs[np.arange(N), y]) / N
    dx = probs.copy()
    dx[np.arange(N), y] -= 1
    dx /= N
    return loss, dx
''',
        "softmax_loss",
        "dx /= N",
        "dx /= x.shape[1]",
        "x",
        "dx = probs.copy()",
        "x (3, 4)",
    ),
    "course, a network with params and grads": Style(
        """
import numpy as np

class TwoLayerNet(object):
    def __init__(self, input_dim=3 * 32 * 32, hidden_dim=100, num_classes=10, weight_scale=1e-3, reg=0.1):
        self.params = {}
        self.reg = reg
        self.params["W1"] = weight_scale * np.random.randn(input_dim, hidden_dim)
        self.params["b1"] = np.zeros(hidden_dim)
        self.params["W2"] = weight_scale * np.random.randn(hidden_dim, num_classes)
        self.params["b2"] = np.zeros(num_classes)

    def loss(self, X, y=None):
        W1, b1 = self.params["W1"], self.params["b1"]
        W2, b2 = self.params["W2"], self.params["b2"]
        N = X.shape[0]
        hidden = np.maximum(0, X.dot(W1) + b1)
        scores = hidden.dot(W2) + b2
        if y is None:
            return scores
        shifted = scores - scores.max(axis=1, keepdims=True)
        probs = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
        loss = -np.log(probs[np.arange(N), y]).mean() + 0.5 * self.reg * (np.sum(W1 * W1) + np.sum(W2 * W2))
        grads = {}
        dscores = probs.copy()
        dscores[np.arange(N), y] -= 1
        dscores /= N
        grads["W2"] = hidden.T.dot(dscores) + self.reg * W2
        grads["b2"] = dscores.sum(axis=0)
        dhidden = dscores.dot(W2.T)
        dhidden[hidden <= 0] = 0
        grads["W1"] = X.T.dot(dhidden) + self.reg * W1
        grads["b1"] = dhidden.sum(axis=0)
        return loss, grads
""",
        "TwoLayerNet",
        "dhidden[hidden <= 0] = 0",
        "dhidden[hidden < 0] = 0",
        "params['W1']",
    ),
    "another course, activation caches and columns": Style(
        """
import numpy as np

def linear_forward(A, W, b):
    Z = np.dot(W, A) + b
    cache = (A, W, b)
    return Z, cache

def linear_backward(dZ, cache):
    A_prev, W, b = cache
    dW = np.dot(dZ, A_prev.T)
    db = np.sum(dZ, axis=1, keepdims=True)
    dA_prev = np.dot(W.T, dZ)
    assert dA_prev.shape == A_prev.shape
    return dA_prev, dW, db

def sigmoid(Z):
    A = 1 / (1 + np.exp(-Z))
    cache = Z
    return A, cache

def sigmoid_backward(dA, cache):
    Z = cache
    s = 1 / (1 + np.exp(-Z))
    dZ = dA * s * (1 - s)
    return dZ
""",
        "sigmoid",
        "dZ = dA * s * (1 - s)",
        "dZ = dA * s * (1 + s)",
        "Z",
        "dZ = dA * s * (1 + s)",
    ),
    "a book, results on the object": Style(
        """
import numpy as np

class Layer_Dense:
    def __init__(self, n_inputs, n_neurons, weight_regularizer_l2=0):
        self.weights = 0.01 * np.random.randn(n_inputs, n_neurons)
        self.biases = np.zeros((1, n_neurons))
        self.weight_regularizer_l2 = weight_regularizer_l2

    def forward(self, inputs, training):
        self.inputs = inputs
        self.output = np.dot(inputs, self.weights) + self.biases

    def backward(self, dvalues):
        self.dweights = np.dot(self.inputs.T, dvalues)
        self.dbiases = np.sum(dvalues, axis=0, keepdims=True)
        if self.weight_regularizer_l2 > 0:
            self.dweights += 2 * self.weight_regularizer_l2 * self.weights
        self.dinputs = np.dot(dvalues, self.weights.T)
""",
        "Layer_Dense",
        "self.dinputs = np.dot(dvalues, self.weights.T)",
        "self.dinputs = 2 * np.dot(dvalues, self.weights.T)",
        "inputs",
        "self.dinputs = 2 * np.dot(dvalues, self.weights.T)",
        "biases (1, ",
    ),
    "a book, a loss whose backward takes predictions": Style(
        """
import numpy as np

class Loss:
    def calculate(self, output, y):
        return np.mean(self.forward(output, y))

class Loss_CategoricalCrossentropy(Loss):
    def forward(self, y_pred, y_true):
        samples = len(y_pred)
        y_pred_clipped = np.clip(y_pred, 1e-7, 1 - 1e-7)
        if len(y_true.shape) == 1:
            confidences = y_pred_clipped[range(samples), y_true]
        elif len(y_true.shape) == 2:
            confidences = np.sum(y_pred_clipped * y_true, axis=1)
        return -np.log(confidences)

    def backward(self, dvalues, y_true):
        samples, labels = len(dvalues), len(dvalues[0])
        if len(y_true.shape) == 1:
            y_true = np.eye(labels)[y_true]
        self.dinputs = -y_true / dvalues
        self.dinputs = self.dinputs / samples
""",
        "Loss_CategoricalCrossentropy",
        "self.dinputs / samples",
        "self.dinputs / labels",
        "y_pred",
    ),
    "another book, params and grads in lists": Style(
        """
import numpy as np

class Affine:
    def __init__(self, W, b):
        self.params = [W, b]
        self.grads = [np.zeros_like(W), np.zeros_like(b)]
        self.x = None

    def forward(self, x):
        W, b = self.params
        self.x = x
        return np.dot(x, W) + b

    def backward(self, dout):
        W, b = self.params
        dx = np.dot(dout, W.T)
        dW = np.dot(self.x.T, dout)
        db = np.sum(dout, axis=0)
        self.grads[0][...] = dW
        self.grads[1][...] = db
        return dx
""",
        "Affine",
        "self.grads[1][...] = db",
        "self.grads[1][...] = db / 2",
        "params[1]",
    ),
    "another book, softmax with loss": Style(
        """
import numpy as np

class SoftmaxWithLoss:
    def __init__(self):
        self.loss, self.y, self.t = None, None, None

    def forward(self, x, t):
        self.t = t
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        self.y = e / e.sum(axis=-1, keepdims=True)
        self.loss = -np.sum(self.t * np.log(self.y)) / x.shape[0]
        return self.loss

    def backward(self, dout=1):
        batch_size = self.t.shape[0]
        dx = (self.y - self.t) * dout / batch_size
        return dx
""",
        "SoftmaxWithLoss",
        "(self.y - self.t) * dout / batch_size",
        "(self.y - self.t) * dout",
        "x",
        "dx = (self.y - self.t) * dout",
    ),
    "an article, weights updated in backward": Style(
        """
import numpy as np

class Layer:
    def forward_propagation(self, input):
        raise NotImplementedError

    def backward_propagation(self, output_error, learning_rate):
        raise NotImplementedError

class FCLayer(Layer):
    def __init__(self, input_size, output_size):
        self.weights = np.random.rand(input_size, output_size) - 0.5
        self.bias = np.random.rand(1, output_size) - 0.5

    def forward_propagation(self, input_data):
        self.input = input_data
        self.output = np.dot(self.input, self.weights) + self.bias
        return self.output

    def backward_propagation(self, output_error, learning_rate):
        input_error = np.dot(output_error, self.weights.T)
        weights_error = np.dot(self.input.T, output_error)
        self.weights -= learning_rate * weights_error
        self.bias -= learning_rate * output_error
        return input_error
""",
        "FCLayer",
        "self.bias -= learning_rate * output_error",
        "self.bias -= learning_rate * output_error.mean()",
        "bias",
    ),
    "activations and their derivatives": Style(
        """
import numpy as np

def sigmoid(x):
    return 1 / (1 + np.exp(-x))

def sigmoid_derivative(x):
    return x * (1 - x)

def relu(x):
    return np.maximum(0, x)

def relu_prime(x):
    return (x > 0).astype(float)

def dtanh(x):
    return 1 - np.tanh(x) ** 2

def tanh(x):
    return np.tanh(x)
""",
        "tanh",
        "1 - np.tanh(x) ** 2",
        "1 - np.tanh(x)",
        "x",
    ),
    "arrays to be filled, as in C": Style(
        """
import numpy as np

# out (B, T, C), mean (B, T), rstd (B, T), inp (B, T, C), weight (C,), bias (C,)
def layernorm_forward(out, mean, rstd, inp, weight, bias, B, T, C):
    # inp: (B, T, C), out: (B, T, C), mean: (B, T), rstd: (B, T), weight: (C,), bias: (C,)
    for b in range(B):
        for t in range(T):
            x = inp[b, t]
            m = x.sum() / C
            v = ((x - m) ** 2).sum() / C
            s = 1.0 / np.sqrt(v + 1e-5)
            out[b, t] = s * (x - m) * weight + bias
            mean[b, t], rstd[b, t] = m, s

def layernorm_backward(dinp, dweight, dbias, dout, inp, weight, mean, rstd, B, T, C):
    for b in range(B):
        for t in range(T):
            norm = (inp[b, t] - mean[b, t]) * rstd[b, t]
            dnorm = weight * dout[b, t]
            dbias += dout[b, t]
            dweight += norm * dout[b, t]
            dinp[b, t] += (dnorm - dnorm.mean() - norm * (dnorm * norm).mean()) * rstd[b, t]
""",
        "layernorm",
        "dnorm - dnorm.mean() - norm",
        "dnorm - norm",
        "inp",
    ),
    "explicit arguments, several outputs": Style(
        '''
import numpy as np

def lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b):
    """
    - x: Input data, of shape (N, D)
    - prev_h: Previous hidden state, of shape (N, H)
    - prev_c: previous cell state, of shape (N, H)
    - Wx: Input-to-hidden weights, of shape (D, 4H)
    - Wh: Hidden-to-hidden weights, of shape (H, 4H)
    - b: Biases, of shape (4H,)
    """
    H = prev_h.shape[1]
    a = x @ Wx + prev_h @ Wh + b
    i, f, o = (1 / (1 + np.exp(-a[:, k * H : (k + 1) * H])) for k in range(3))
    g = np.tanh(a[:, 3 * H :])
    next_c = f * prev_c + i * g
    next_h = o * np.tanh(next_c)
    cache = (x, prev_h, prev_c, Wx, Wh, i, f, o, g, next_c)
    return next_h, next_c, cache

def lstm_step_backward(dnext_h, dnext_c, cache):
    x, prev_h, prev_c, Wx, Wh, i, f, o, g, next_c = cache
    t = np.tanh(next_c)
    dc = dnext_c + dnext_h * o * (1 - t**2)
    di, df, do, dg = dc * g, dc * prev_c, dnext_h * t, dc * i
    da = np.hstack((di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dg * (1 - g**2)))
    dx, dprev_h, dprev_c = da @ Wx.T, da @ Wh.T, dc * f
    dWx, dWh, db = x.T @ da, prev_h.T @ da, da.sum(axis=0)
    return dx, dprev_h, dprev_c, dWx, dWh, db
''',
        "lstm_step",
        "dc = dnext_c + dnext_h * o * (1 - t**2)",
        "dc = dnext_h * o * (1 - t**2)",
        "prev_c",
        "di, df, do, dg = dc * g, dc * prev_c, dnext_h * t, dc * i",
    ),
    "shape comments beside products": Style(
        """
import numpy as np

class MLP:
    def __init__(self, d_model: int, d_ff: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.w1 = rng.normal(0, 0.02, (d_model, d_ff))
        self.w2 = rng.normal(0, 0.02, (d_ff, d_model))
        self.grad_w1 = self.grad_w2 = None

    def __call__(self, x):  # x: (B, T, d_model)
        self.x = x
        self.h = np.tanh(x @ self.w1)  # (B, T, d_model) @ (d_model, d_ff) -> (B, T, d_ff)
        return self.h @ self.w2  # (B, T, d_ff) @ (d_ff, d_model)

    def backward(self, grad):
        grad_h = grad @ self.w2.T
        self.grad_w2 = np.einsum("btf,btc->fc", self.h, grad)
        grad_u = grad_h * (1 - self.h**2)
        self.grad_w1 = np.einsum("btc,btf->cf", self.x, grad_u)
        return grad_u @ self.w1.T
""",
        "MLP",
        'self.grad_w2 = np.einsum("btf,btc->fc", self.h, grad)',
        'self.grad_w2 = np.einsum("btf,btc->fc", self.h[:, :-1], grad[:, :-1])',
        "w2",
        "self.grad_w2 = ",
        "x (2, ",
    ),
    "an embedding, tokens by annotation": Style(
        '''
import numpy as np

class Embedding:
    """Rows of a table.

    Args:
        vocab_size: how many
        dim: how wide
    """

    def __init__(self, vocab_size: int, dim: int):
        self.params = {"weight": np.random.randn(vocab_size, dim).astype(np.float32)}
        self.grads = {"weight": np.zeros((vocab_size, dim))}

    def forward(self, ids):
        """ids: integer array of shape (B, T)"""
        self.ids = ids
        return self.params["weight"][ids]

    def backward(self, dout):
        self.grads["weight"][...] = 0
        np.add.at(self.grads["weight"], self.ids, dout)
''',
        "Embedding",
        'np.add.at(self.grads["weight"], self.ids, dout)',
        'self.grads["weight"][self.ids] += dout',
        "params['weight']",
    ),
    "numbers with gradients of their own": Style(
        """
import math

class Value:
    def __init__(self, data, _children=(), _op=""):
        self.data = data
        self.grad = 0.0
        self._prev = set(_children)
        self._backward = lambda: None

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        out = Value(self.data + other.data, (self, other), "+")

        def _backward():
            self.grad += out.grad
            other.grad += out.grad

        out._backward = _backward
        return out

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        out = Value(self.data * other.data, (self, other), "*")

        def _backward():
            self.grad += other.data * out.grad
            other.grad += self.data * out.grad

        out._backward = _backward
        return out

    def __pow__(self, other):
        out = Value(self.data**other, (self,), f"**{other}")

        def _backward():
            self.grad += (other * self.data ** (other - 1)) * out.grad

        out._backward = _backward
        return out

    def tanh(self):
        t = math.tanh(self.data)
        out = Value(t, (self,), "tanh")

        def _backward():
            self.grad += (1 - t**2) * out.grad

        out._backward = _backward
        return out

    def backward(self):
        order, seen = [], set()

        def visit(v):
            if v not in seen:
                seen.add(v)
                for child in v._prev:
                    visit(child)
                order.append(v)

        visit(self)
        self.grad = 1.0
        for v in reversed(order):
            v._backward()
""",
        "Value.__pow__",
        "(other * self.data ** (other - 1)) * out.grad",
        "(other * self.data**other) * out.grad",
        "a",
    ),
    "a layer of minillm": Style(
        '''
import numpy as np

import minillm


class Scaled(minillm.Layer):
    """x (B, T, C) -> y (B, T, C), g (C,)"""

    def __init__(self, width: int):
        self.g = minillm.Parameter(np.ones(width, np.float32))

    def forward(self, x):
        self.save_for_backward(x)
        return np.tanh(x) * self.g.value

    def backward(self, dy):
        x = self.take_saved()
        self.g.add_grad((dy * np.tanh(x)).sum(axis=(0, 1)))
        return dy * self.g.value * (1 - np.tanh(x) ** 2)
''',
        "Scaled",
        "(1 - np.tanh(x) ** 2)",
        "(1 - np.tanh(x))",
        "x",
    ),
    "no cache, the inputs once more": Style(
        """
import numpy as np

def relu(z):
    return np.maximum(z, 0)

def relu_grad(dout, z):
    return dout * (z > 0)

def mse(y_true, y_pred):
    return np.mean(np.power(y_true - y_pred, 2))

def mse_prime(y_true, y_pred):
    return 2 * (y_pred - y_true) / np.size(y_true)
""",
        "mse",
        "2 * (y_pred - y_true) / np.size(y_true)",
        "2 * (y_pred - y_true) / len(y_true)",
        "y_pred",
    ),
}
