"""Settings of a launcher that do not act as a user may expect. Loads no torch."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from vpgtrans_core.errors import ConfigError, VpgtError

JOINED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What several processes need beside ``WORLD_SIZE`` to find each other."""
YES = {"1", "true", "yes", "on", "y", "t"}


def remarks(environment: Mapping[str, str], shard: bool | None = None) -> list[str]:
    """Warnings about the launcher that started this process, from the environment that it set.

    ``accelerate launch --cpu`` starts one process, however many were asked for, and accelerate's own precision is not
    vpgt's. One process has nobody to `shard` the LLM with.
    """
    remarks = []
    one = int(environment.get("WORLD_SIZE", "1")) == 1
    if environment.get("ACCELERATE_USE_CPU", "").lower() in YES and one:
        remarks.append(
            "`accelerate launch --cpu` starts one process; to start several on CPUs, use "
            "`torchrun --nproc-per-node N -m vpgtrans_core.cli.main transfer ... --device cpu`"
        )
    if shard and one:
        remarks.append(
            "there is one process, which holds the whole LLM: --shard needs several, as "
            "`torchrun --nproc-per-node N -m vpgtrans_core.cli.main transfer ... --shard` starts them"
        )
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("", "no"):
        dtype = {"bf16": "bfloat16", "fp16": "float16"}.get(precision, "bfloat16")
        remarks.append(
            f"vpgt ignores accelerate's mixed_precision {precision}; set the precision with --dtype, for example "
            f"--dtype {dtype}"
        )
    return remarks


def check_launch(environment: Mapping[str, str]) -> None:
    """Refuse variables of a launcher that do not go together, as a job's script may leave them behind.

    Raises:
        ConfigError: one is missing or not a number.
    """
    size = environment.get("WORLD_SIZE", "1")
    if size == "1" or "ACCELERATE_DEBUG_RDV_FILE" in environment:  # accelerate's debug_launcher joins them by a file
        return
    problems = [f"{name} is not set" for name in JOINED if name not in environment]
    numbers = ("WORLD_SIZE", *JOINED[:2], JOINED[3])
    problems += [
        f"{name} is {environment[name]!r}, not a number"
        for name in numbers
        if name in environment and not environment[name].isdecimal()
    ]
    if problems:
        raise ConfigError(
            [f"WORLD_SIZE={size} says that several processes were started, but {problem}" for problem in problems],
            "start them with torchrun; for one process, unset WORLD_SIZE",
        )


def is_main() -> bool:
    """Whether this is the main process of those that a launcher started; needs no process group."""
    return os.environ.get("RANK", "0") == "0"


def tell_launcher(error: VpgtError, environment: Mapping[str, str]) -> None:
    """Give ``torchrun`` the error's text, in the file that its report of the first failed process shows.
    An error that all processes meet follows from that one, or has been shown."""
    if (path := environment.get("TORCHELASTIC_ERROR_FILE")) and not error.in_every_process:
        more = {"py_callstack": str(error), "timestamp": str(int(time.time()))}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": {"message": str(error), "extraInfo": more}}))


def launcher() -> int | None:
    """The process id of the ``torchrun`` that started this process and ends it when another one fails; None if
    something else did."""
    return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
