"""Training: settings, run folders, the loop, evaluation, checkpoints, metrics."""

from minillm.training.control import Control
from minillm.training.evaluation import Evaluation, evaluate_model
from minillm.training.loop import Diverged, Reporter, train
from minillm.training.run import Run, check_same_settings, resume_run, start_run
from minillm.training.run_folder import next_free_folder
from minillm.training.settings import SETTING_NAMES, TrainingSettings

__all__ = [
    "SETTING_NAMES",
    "Control",
    "Diverged",
    "Evaluation",
    "Reporter",
    "Run",
    "TrainingSettings",
    "check_same_settings",
    "evaluate_model",
    "next_free_folder",
    "resume_run",
    "start_run",
    "train",
]
