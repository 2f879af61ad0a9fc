"""Optimizers, learning-rate schedules and gradient clipping."""

from minillm.optim.adam import Adam
from minillm.optim.adamw import AdamW
from minillm.optim.global_norm import clip, clip_scale, global_norm
from minillm.optim.schedules import SCHEDULES, make_schedule

OPTIMIZERS = {"adamw": AdamW, "adam": Adam}

__all__ = ["OPTIMIZERS", "SCHEDULES", "Adam", "AdamW", "clip", "clip_scale", "global_norm", "make_schedule"]
