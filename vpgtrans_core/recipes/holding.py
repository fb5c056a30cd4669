"""How the frozen LLM is held: its precision, where its parts are, how it computes; and which of these go together."""

from __future__ import annotations

from typing import Literal

Quantization = Literal["none", "8bit", "4bit", "float8"]
FLOAT8: Quantization = "float8"
"""Not packed to save memory, but rounded to compute faster, on GPUs that can; half the memory comes with it."""
Place = Literal["auto", "auto:cpu"]
LEFT = 3.0e9
"""Bytes of a GPU that the weights of a placed LLM leave free at least, for activations and the loss."""
SPILLS: Place = "auto:cpu"
"""The place in which host memory takes what the GPUs cannot hold."""


def holding_problems(
    *,
    compile: bool | None,
    checkpoint_activations: bool,
    quantization: Quantization,
    place: Place | None,
    device: str,
    shard: bool | None,
) -> list[str]:
    """What does not go together; the names are those of the settings."""
    problems = []
    if compile and checkpoint_activations:
        problems.append("compile: blocks recomputed by checkpoint_activations run uncompiled; give one of the two")
    if compile and quantization not in ("none", FLOAT8):
        problems.append("compile: a quantised LLM cannot be compiled; give one of compile and quantization")
    if compile and place:
        problems.append("compile: an LLM on several devices cannot be compiled; give one of compile and place")
    if quantization == FLOAT8 and device == "cpu":
        problems.append("quantization: float8 needs a GPU, an H100 or a later one; on a CPU there is 8bit or 4bit")
    if quantization == FLOAT8 and place:
        problems.append("place: an LLM in float8 is on one GPU; give one of place and quantization")
    elif place == SPILLS and quantization != "none":
        problems.append("place: a quantised LLM stays on GPUs; give --place auto, or leave --quantization out")
    if place and ":" in device:
        problems.append("place: all visible GPUs are used; choose them with CUDA_VISIBLE_DEVICES in place of device")
    if shard and quantization != "none":
        problems.append("shard: a quantised LLM's packed numbers cannot be cut; give one of shard and quantization")
    if shard and compile:
        problems.append("shard: blocks that are gathered when they run cannot be compiled; give one of the two")
    if shard and place:
        problems.append("shard: is for several processes, and place for one; give one of the two")
    return problems
