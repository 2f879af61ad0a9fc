"""A step of AdamW, by its formula."""

import numpy as np

from minillm.kernels.exercises.steps import check_steps
from minillm.kernels.exercises.task import PythonTask


def check(module, rng, size, gradcheck):
    w, m, v = rng.normal(size=size["weights"]), np.zeros(size["weights"]), np.zeros(size["weights"])
    settings = dict(lr=rng.uniform(0.01, 0.1), betas=(0.9, 0.99), eps=1e-3, decay=rng.uniform(0.1, 0.5))
    for t in range(1, size["steps"] + 1):
        g = rng.normal(size=w.shape) * 10.0 ** rng.integers(-4, 2, w.shape)
        right = right_steps(w, g, m, v, **settings, t=t)
        arguments = (w.copy(), g.copy(), m.copy(), v.copy(), *settings.values(), t)
        found = module.adamw(*(np.copy(each) if isinstance(each, np.ndarray) else each for each in arguments))
        assert isinstance(found, tuple) and len(found) == 3, "adamw returns w, m, v"
        for name, value in zip("wmv", found):
            if np.shape(value) != w.shape or not np.allclose(value, right[name], rtol=1e-9, atol=0):
                check_steps(module.adamw, arguments, right, at=f", at step {t}")
                raise AssertionError(f"the {name} that adamw returns at step {t} is not that of the formula")
        w, m, v = right["w"], right["m"], right["v"]


def right_steps(w, g, m, v, lr, betas, eps, decay, t):
    """What the variables of a step have to hold: the formula."""
    b1, b2 = betas
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
    w = w - lr * (m_hat / (np.sqrt(v_hat) + eps) + decay * w)
    return {"g": g, "m": m, "v": v, "m_hat": m_hat, "v_hat": v_hat, "w": w}


def sizes(rng):
    return [{"weights": 6, "steps": 1}, {"weights": int(rng.integers(20, 50)), "steps": 4}]


TASK = PythonTask(("adamw",), check, sizes)
