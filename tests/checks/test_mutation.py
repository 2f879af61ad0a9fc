"""The engine: copies of modules, what a check says of a mutant, and that nothing is left behind."""

import ast

import numpy as np
import pytest
from mutation_testing import module_of
from planting import planted

from minillm.checks.cases import CROSS_ENTROPY, GELU, LAYER_NORM, LINEAR, check_gradients
from minillm.checks.gradcheck import GradientError
from minillm.checks.mutation import TooManySteps, backward_functions, mutants_of, observe, try_mutants
from minillm.checks.mutation import measured as measured_module
from minillm.checks.mutation import mutants as mutants_module
from minillm.checks.mutation.measured import ForwardChanged, Measured
from minillm.checks.mutation.source import source_of
from minillm.checks.subjects import ContractError

PAIR = """
runs = []
runs.append("imported")


def f_forward(x, w):
    return x * w, (x, w)


def f_backward(dy, saved):
    x, w = saved
    return dy * w, dy * x


pair = (f_forward, f_backward)
"""
X, W = np.array([[0.3, -1.2], [0.7, 2.0]]), np.array([[1.5, 0.4], [-0.6, 0.9]])


def measured_pair(module):
    return Measured(lambda copy: (copy.pair, {"x": X, "w": W}, None), module, "the pair")


def survivors(outcomes):
    return [str(outcome.mutant) for outcome in outcomes if not outcome.noticed]


def test_all_mutants_of_a_pair_are_noticed(tmp_path):
    """The other names for a function in the module, too, are those of the copy."""
    module = module_of(tmp_path, PAIR)
    check = measured_pair(module).check
    observed = observe(module, ["f_backward"], check)
    outcomes = try_mutants(mutants_of(module, ["f_backward"], observed), check)
    assert len(outcomes) > 12 and not survivors(outcomes)
    assert any("the gradient of x is wrong at" in outcome.noticed for outcome in outcomes)


def test_nothing_is_left_behind(tmp_path):
    """The module, its source tree and what it ran once stay as they are."""
    module = module_of(tmp_path, PAIR)
    before, tree = vars(module).copy(), ast.dump(source_of(module).tree)
    check = measured_pair(module).check
    try_mutants(mutants_of(module, ["f_backward"], observe(module, ["f_backward"], check)), check)
    assert vars(module) == before and ast.dump(source_of(module).tree) == tree
    assert module.runs == ["imported"]
    assert module.f_backward(1.0, (2.0, 3.0)) == (3.0, 2.0)
    check(module)


@pytest.mark.parametrize("case", [LAYER_NORM, GELU, LINEAR, CROSS_ENTROPY], ids=str)
def test_the_verdict_is_that_of_gradcheck(case):
    """Of every eleventh mutant: what is kept, and what is not measured, changes no verdict."""
    for problem in case.gradcheck[-1:]:
        measured = Measured(lambda copy, problem=problem: case.subject(problem, copy), case.module, case.label(problem))
        names = backward_functions(case.module)
        mutants = mutants_of(case.module, names, observe(case.module, names, measured.check))[::11]
        for mutant, outcome in zip(mutants, try_mutants(mutants, measured.check)):
            try:
                check_gradients(case, problem, mutant.module())
                whole = ""
            except Exception as error:  # of the changed function: it may be any
                whole = str(error)
            assert bool(outcome.noticed) == bool(whole) or "ForwardChanged" in outcome.noticed, str(mutant)


@pytest.mark.parametrize("size, is_wrong", [(2e-6, True), (-2e-6, True), (2e-7, False), (np.nan, True)])
@pytest.mark.parametrize("element", [(0, 0), (1, 1)])
def test_one_number_that_is_off(tmp_path, size, is_wrong, element):
    module = module_of(tmp_path, PAIR)
    measured = measured_pair(module)

    def off(dy, saved):
        dx, dw = module.f_backward(dy, saved)
        dw[element] *= 1 + size
        return dx, dw

    changed = planted(module, "pair = (f_forward, f_backward)", "pair = None")
    changed.pair = (module.f_forward, off)
    if is_wrong:
        with pytest.raises(GradientError, match="the gradient of w is wrong at"):
            measured.check(changed)
    else:
        measured.check(changed)


def test_a_broken_contract_and_another_forward_are_noticed(tmp_path):
    module = module_of(tmp_path, PAIR)
    measured = measured_pair(module)
    with pytest.raises(ContractError, match="1 gradient for 2 float inputs"):
        measured.check(planted(module, "return dy * w, dy * x", "return dy * w"))
    with pytest.raises(ForwardChanged):
        measured.check(planted(module, "return x * w, (x, w)", "return x * w + 1, (x, w)"))


def test_confirm_measures_the_module_as_it_is(tmp_path):
    module = module_of(tmp_path, PAIR.replace("dy * w, dy * x", "dy * w, 2 * dy * x"))
    measured = measured_pair(module)
    with pytest.raises(GradientError, match="the gradient of w is wrong"):
        measured.confirm()
    measured_pair(module_of(tmp_path, PAIR, "right")).confirm()


LOOP = """
def f_forward(x):
    return x * x, x


def f_backward(dy, x):
    n, dx = 0, 0 * x
    while n < 2:
        dx = dx + dy * x
        n += 1
    return dx


pair = (f_forward, f_backward)
"""


def test_a_loop_that_does_not_end_is_noticed(tmp_path):
    module = module_of(tmp_path, LOOP)
    check = Measured(lambda copy: (copy.pair, {"x": X}, None), module, "loop").check
    outcomes = try_mutants(mutants_of(module, ["f_backward"], observe(module, ["f_backward"], check)), check)
    assert sum(TooManySteps.__name__ in outcome.noticed for outcome in outcomes) >= 2


def test_ctrl_c_ends_it(tmp_path):
    module = module_of(tmp_path, PAIR)

    def check(copy):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        try_mutants(mutants_of(module, ["f_backward"]), check)
    assert module.f_backward(1.0, (2.0, 3.0)) == (3.0, 2.0)


# ---------------------------------------------------------------------------------------- faults in the engine itself


ENGINE_FAULTS = {
    "a judge that always passes": (measured_module, "if row.verdict != PASSED:", "if False:"),
    "numbers that are never measured": (measured_module, "~(error <= SAME)", "error > 1e9"),
    "a gradient that is compared with itself": (
        measured_module,
        "self.own[tensor].reshape(-1))\n        differ",
        "gradient.reshape(-1))\n        differ",
    ),
    "a judge that looks at another gradient": (
        measured_module,
        "array, gradients[tensor])",
        "array, self._gradients[tensor])",
    ),
}


@pytest.mark.parametrize("module, right, wrong", ENGINE_FAULTS.values(), ids=ENGINE_FAULTS.keys())
def test_faults_of_the_judge_are_caught(tmp_path, module, right, wrong):
    faulty, pair = planted(module, right, wrong), module_of(tmp_path, PAIR)
    check = faulty.Measured(lambda copy: (copy.pair, {"x": X, "w": W}, None), pair, "the pair").check
    outcomes = try_mutants(mutants_of(pair, ["f_backward"]), check)
    assert survivors(outcomes)


MUTANT_FAULTS = {
    "a mutant that is the module itself": ("self._place.put(self._replacement)", "pass"),
    "a fault that stays in the tree": ("self._place.put(self._place.node)", "pass"),
    "an exception that is none": ('return f"{type(error).__name__}: {said}" if said', 'return "" if said'),
}


@pytest.mark.parametrize("right, wrong", MUTANT_FAULTS.values(), ids=MUTANT_FAULTS.keys())
def test_faults_of_the_mutants_are_caught(tmp_path, right, wrong):
    faulty, pair = planted(mutants_module, right, wrong), module_of(tmp_path, PAIR)
    tree = ast.dump(source_of(pair).tree)
    outcomes = faulty.try_mutants(faulty.mutants_of(pair, ["f_backward"]), measured_pair(pair).check)
    assert survivors(outcomes) or ast.dump(source_of(pair).tree) != tree


def test_memory_that_is_not_initialized_is_no_zero():
    """So that a mutant that adds to it is noticed, whatever the memory held before."""
    before = np.empty
    with mutants_module.memory_is_never_zero():
        assert np.isnan(np.empty((2, 3))).all() and np.isnan(np.empty_like(np.zeros(3, complex))).all()
        assert np.empty(3, int).shape == (3,)
    assert np.empty is before
