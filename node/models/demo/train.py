"""Training of the demo model, from nothing or from earlier weights.

    python -m node.models.demo.train OUT --minutes 24.5
    python -m node.models.demo.train OUT --minutes 6 --start-from DIR --weight tool=24 --weight echo=14 --weight lookup=14

The corpus and its order come from a seed. The learning rate follows the clock (warm-up, hold, linear to almost zero over the
minutes given), so that a slow machine ends as well as a fast one, after fewer steps; weights are therefore not
bit-reproducible, and the shipped ones are never made again by a test.
"""

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.models.blas import preload_blas

preload_blas()

import mlx.core as mx  # noqa: E402 - mlx binds the BLAS that is loaded by then
from mlx import nn, optimizers  # noqa: E402 - as above
from mlx.utils import tree_flatten  # noqa: E402 - as above
from mlx_lm.models import qwen3  # noqa: E402 - as above
from tokenizers import Tokenizer  # noqa: E402 - stays below mlx for the reader's sake

from node.models.demo import demo_directory  # noqa: E402 - as above
from node.models.demo.batches import Batch, batches  # noqa: E402 - as above
from node.models.demo.families import FAMILIES, Family, reweighted  # noqa: E402 - as above
from node.models.demo.tokenizer import corpus_texts, train_tokenizer, write_description  # noqa: E402 - as above
