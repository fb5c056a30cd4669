"""What a launcher was told that does not reach a run as its user may think. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping

YES = {"1", "true", "yes", "on", "y", "t"}


def remarks(environment: Mapping[str, str]) -> list[str]:
    """What to say about the launcher that started this process, by the environment that it set.

    ``accelerate launch --cpu`` starts one process, however many were asked for, and accelerate's own precision is not
    vpgt's.
    """
    remarks = []
    one = int(environment.get("WORLD_SIZE", "1")) == 1
    if environment.get("ACCELERATE_USE_CPU", "").lower() in YES and one:
        remarks.append(
            "`accelerate launch --cpu` starts one process; several on CPUs are started with "
            "`torchrun --nproc-per-node N -m vpgtrans_core.cli.main transfer ... --device cpu`"
        )
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("", "no"):
        dtype = {"bf16": "bfloat16", "fp16": "float16"}.get(precision, "bfloat16")
        remarks.append(
            f"accelerate's mixed_precision {precision} is not used; vpgt's own precision is --dtype, for instance "
            f"--dtype {dtype}"
        )
    return remarks
