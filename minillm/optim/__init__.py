"""Optimizers, learning-rate schedules and gradient clipping."""

from minillm.optim.adam import Adam
from minillm.optim.adamw import AdamW
from minillm.optim.global_norm import clip
from minillm.optim.lion import Lion
from minillm.optim.muon import Muon
from minillm.optim.optimizer import Optimizer
from minillm.optim.schedules import SCHEDULES, make_schedule
from minillm.optim.sgd import SGD

OPTIMIZERS = {"adamw": AdamW, "adam": Adam, "sgd": SGD, "muon": Muon, "lion": Lion}  # the names that --optimizer takes

__all__ = ["OPTIMIZERS", "SCHEDULES", "SGD", "Adam", "AdamW", "Lion", "Muon", "Optimizer", "clip", "make_schedule"]
