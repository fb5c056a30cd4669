"""The ways to compute a step that `steps.py` sets side by side."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One way to compute a step.

    Attributes:
        name: in the table.
        stage: 1 or 2.
        llm: ``plain`` (padded, all logits), ``rows`` (padded, head at labels), ``packed`` (rows packed, nothing
            shared) or ``tree`` (captions of an image share its prefix).
        vpg: ``caption`` (for each), ``image`` (once), ``features`` or ``outputs`` (from a cache).
        half: frozen parts in bf16, autocast for the rest.
        headline: one of the rows that ``--headline`` is content with.
        compiled: the LLM's blocks are compiled, as in long runs on a GPU.
    """

    name: str
    stage: int
    llm: str
    vpg: str
    half: bool = False
    headline: bool = False
    compiled: bool = False


VARIANTS = (
    Variant("plain", 1, "plain", "caption", headline=True),
    Variant("VPG once an image, alone", 1, "plain", "image"),
    Variant("head at labels, alone", 1, "rows", "caption"),
    Variant("packed rows, head at labels", 1, "packed", "caption"),
    Variant("first epoch: VPG once, tree", 1, "tree", "image", headline=True),
    Variant("plain LLM, VPG cached", 1, "plain", "outputs"),
    Variant("head at labels, VPG cached", 1, "rows", "outputs"),
    Variant("packed, head, VPG cached", 1, "packed", "outputs"),
    Variant("cached: tree, head", 1, "tree", "outputs", headline=True),
    Variant("plain", 2, "plain", "caption", headline=True),
    Variant("VPG once, tree", 2, "tree", "image", headline=True),
    Variant("features cached, tree", 2, "tree", "features", headline=True),
    Variant("plain, bf16", 1, "plain", "caption", half=True),
    Variant("first epoch, bf16", 1, "tree", "image", half=True, headline=True),
    Variant("cached, bf16", 1, "tree", "outputs", half=True, headline=True),
    Variant("features cached, bf16", 2, "tree", "features", half=True, headline=True),
)
COMPILED = (
    Variant("first epoch, compiled", 1, "tree", "image", headline=True, compiled=True),
    Variant("cached, compiled", 1, "tree", "outputs", headline=True, compiled=True),
    Variant("VPG once, compiled", 2, "tree", "image", headline=True, compiled=True),
    Variant("features cached, compiled", 2, "tree", "features", headline=True, compiled=True),
)
"""On a GPU, whose precision is bf16 for all."""
