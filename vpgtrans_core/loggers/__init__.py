"""A run's numbers in TensorBoard and trackio, through the hook for run events. Loads no torch.

Each logger is an ordinary plugin object: it implements `vpgt_run_event`, and one that fails never stops a run.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.registry import Registry

PACKAGES = {"tensorboard": "tensorboard", "trackio": "trackio"}
"""The package that each logger needs; an extra of the same name installs it."""


def check_loggers(names: Sequence[str]) -> None:
    """Look before a run whether the loggers' packages are there.

    Raises:
        ConfigError: some are not; the hint installs them.
    """
    missing = [name for name in names if importlib.util.find_spec(PACKAGES[name]) is None]
    if missing:
        raise ConfigError(
            [f"log: {name} needs the package {PACKAGES[name]}, which is not installed" for name in missing],
            f'pip install "vpgt[{",".join(missing)}]"',
        )


def add_loggers(names: Sequence[str], folder: Path, registry: Registry) -> None:
    """Let the loggers called `names` listen to the run in `folder`."""
    for name in names:
        module = importlib.import_module(f"vpgtrans_core.loggers.{name}")
        registry.add(module.Logger(folder), f"{name} for {folder}")
