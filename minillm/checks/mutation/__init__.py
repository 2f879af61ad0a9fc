"""Mutants: faults that are made by rule, from the syntax tree of a backward function.

A check that has never failed proves nothing. Here every line of a backward function is changed in
every way that the rules know, one change at a time, and the check has to notice each. What it does
not notice, the survivors, are either the same function in other words, or a hole in the check.

    observed = observe(module, names, check)               what runs in a check, and the shapes there
    mutants = mutants_of(module, names, observed)          the faults
    outcomes = try_mutants(mutants, check)                 which of them `check(copy of the module)` notices

Source of the method: DeMillo, Lipton, Sayward, "Hints on test data selection" (Computer, 1978).
"""

from minillm.checks.mutation.mutants import Mutant, Outcome, TooManySteps, mutants_of, try_mutants
from minillm.checks.mutation.observed import Observed, observe
from minillm.checks.mutation.source import backward_functions, functions_of

__all__ = ["Mutant", "Observed", "Outcome", "TooManySteps", "backward_functions", "functions_of", "mutants_of"]
__all__ += ["observe", "try_mutants"]
