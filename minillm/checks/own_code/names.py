"""What the names of arguments say: settings and their values, labels, sizes, biases."""

from __future__ import annotations

import re

import numpy as np

SETTINGS: dict[str, object] = {}
for _value, _names in (
    (1e-5, "eps epsilon variance_epsilon"),
    (0.5, "p rate drop dropout dropout_rate drop_prob keep_prob p_drop dropout_ratio"),
    (0.9, "momentum beta1 decay rho"),
    (1.0, "lr learning_rate learn_rate step_size eta delta margin temperature tau scale gain"),
    (0.1, "reg lam lambda_ lambd l1 l2 weight_decay reg_strength alpha slope negative_slope leak"),
    ("train", "mode"),
    (True, "training train is_training train_flg train_mode is_train"),
    (1, "stride pad padding dilation stride_h stride_w"),
    (2, "pool_height pool_width pool_h pool_w kernel_size filter_size pool_size ksize"),
    (2, "n_head n_heads num_heads nh heads num_groups n_groups groups"),
    (-1, "axis dim"),
    (0, "seed random_state layer_idx layer_id index"),
    ("layer", "name label_name"),
    (False, "verbose debug"),
    (np.float64, "dtype"),
):
    SETTINGS |= dict.fromkeys(_names.split(), _value)

LABELS = ("y", "t", "label", "labels", "target", "targets", "y_true", "true", "truth", "y_batch", "gt", "ground_truth")
TOKENS = ("idx", "ids", "token", "tokens", "token_ids", "indices", "index", "idxs", "input_ids")
BIASES = re.compile(r"^(b\w?|.*bias(es)?|beta|.*_b|b\d|gamma|g|gain|shift)$", re.I)
PROBABILITIES = re.compile(r"prob|pred|y_?hat|^p$|softmax|^AL$|^a$", re.I)
SIZES = re.compile(
    r"^(n|num|d)_|^(n|d)$|^(n|d)_?(in|out)(puts?)?$|(size|dim|dims|features|units|neurons|channels|width|hidden|classes|embeddings?|filters)\d?$"
    r"|^(in|out|input|output|inputs|outputs|fan_in|fan_out|nin|nout|d_model|d_ff|vocab|nodes)(_len|_n|_num|_dim)?$"
)
ACTIVATION = re.compile(
    r"^(activation|act|func|function|fn|nonlinearity|f)(_?(fn|func|function))?(_|$)|^(d_?)(activation|act|func|f)$|^f_?prime$"
)
SLOPE = re.compile(r"prime|deriv|grad|backward|^d_?(activation|act|func|f)$")
LISTS = re.compile(
    r"^(hidden|layer|layers)_?(dims|sizes|layers|units|neurons|nodes)$|^(dims|sizes|topology|architecture)$"
)
