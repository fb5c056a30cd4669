"""How the frozen LLM is held: its precision, where its parts are, how it computes; and which of these go together."""

from __future__ import annotations

from typing import Literal, Protocol

Quantization = Literal["none", "8bit", "4bit"]
Place = Literal["auto", "auto:cpu"]
SPILLS: Place = "auto:cpu"
"""The place in which host memory takes what the GPUs cannot hold."""


class Held(Protocol):
    """The settings that say how the LLM is held."""

    @property
    def compile(self) -> bool | None: ...
    @property
    def checkpoint_activations(self) -> bool: ...
    @property
    def quantization(self) -> Quantization: ...
    @property
    def place(self) -> Place | None: ...
    @property
    def shard(self) -> bool | None: ...
    @property
    def device(self) -> str: ...


def holding_problems(settings: Held) -> list[str]:
    """What does not go together."""
    problems = []
    if settings.compile and settings.checkpoint_activations:
        problems.append("compile: blocks recomputed by checkpoint_activations run uncompiled; give one of the two")
    if settings.compile and settings.quantization != "none":
        problems.append("compile: a quantised LLM cannot be compiled; give one of compile and quantization")
    if settings.compile and settings.place:
        problems.append("compile: an LLM on several devices cannot be compiled; give one of compile and place")
    if settings.place == SPILLS and settings.quantization != "none":
        problems.append("place: a quantised LLM stays on GPUs; give --place auto, or leave --quantization out")
    if settings.place and ":" in settings.device:
        problems.append("place: all visible GPUs are used; choose them with CUDA_VISIBLE_DEVICES in place of device")
    if settings.shard and settings.quantization != "none":
        problems.append("shard: a quantised LLM's packed numbers cannot be cut; give one of shard and quantization")
    if settings.shard and settings.compile:
        problems.append("shard: blocks that are gathered when they run cannot be compiled; give one of the two")
    if settings.shard and settings.place:
        problems.append("shard: is for several processes, and place for one; give one of the two")
    return problems
