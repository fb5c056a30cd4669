"""What the recipe decides by the run's size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from llm_llama import vpgt_llm_families as llama
from llm_opt import vpgt_llm_families as opt

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.settings import Settings, build
from vpgtrans_core.train.recipe import compiles

CAPTIONS = 1728
"""Of a step."""


@pytest.mark.parametrize(
    ("changed", "device", "family", "processes", "steps", "expected"),
    [
        ({}, "cuda", llama, 1, 2000, True),
        ({}, "cuda", opt, 1, 2000, False),
        ({}, "cpu", llama, 1, 2000, False),
        ({}, "cuda", llama, 1, 200, False),
        ({}, "cuda", llama, 8, 2000, False),
        ({"checkpoint_activations": True}, "cuda", llama, 1, 2000, False),
        ({"quantization": "8bit"}, "cuda", llama, 1, 2000, False),
        ({"compile": True}, "cpu", opt, 1, 2, True),
        ({"compile": False}, "cuda", llama, 1, 2000, False),
    ],
)
def test_long_runs_on_a_gpu_are_compiled(
    changed: dict[str, Any], device: str, family: Any, processes: int, steps: int, expected: bool
) -> None:
    machine: Any = SimpleNamespace(
        device=SimpleNamespace(type=device), accelerator=SimpleNamespace(num_processes=processes)
    )
    llm: Any = SimpleNamespace(family=family()[0], model=SimpleNamespace(num_parameters=lambda: 7 * 10**9))
    assert compiles(Settings(**changed), machine, llm, steps * CAPTIONS) is expected


def test_compiling_and_recomputing_are_not_asked_for_together() -> None:
    with pytest.raises(ConfigError, match="give one of the two"):
        build({"compile": True, "checkpoint_activations": True})
