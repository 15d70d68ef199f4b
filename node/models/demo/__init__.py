"""The demo model that a fresh node already offers: a small chat model, shipped as package data.

The files in `weights/` are the whole model in the Hugging Face layout that mlx-lm loads. Importing this package imports
neither mlx nor the training modules; those run only as programs (`python -m node.models.demo.train`, `… .evaluate`).
"""

from importlib.resources import files
from pathlib import Path

DEMO_NAME = "demo"
"""The model name under which a fresh node offers these files."""

WEIGHT_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
"""Every file that is part of the model; the model card beside them is not."""


def demo_directory() -> Path:
    """The directory with the demo model's files, read-only for the caller.

    The wheel is always unpacked onto a file system (mlx maps the weights from disk), so the resource is a real path.
    """
    return Path(str(files(__name__).joinpath("weights")))
