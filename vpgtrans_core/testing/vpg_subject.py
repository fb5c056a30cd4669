"""A family of VPGs under test: a tiny one with random weights, and its folder."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vpgtrans_core.cards import VPGFamily, load
from vpgtrans_core.data.images import normalize, pixels
from vpgtrans_core.data.tiles import Tiles, stacked
from vpgtrans_core.testing.checks import CheckFailed
from vpgtrans_core.testing.opening import DECLARATION
from vpgtrans_core.testing.subject import Subject
from vpgtrans_core.testing.tiny_models import save_tiny_llm
from vpgtrans_core.testing.transferring import transfer_two_steps
from vpgtrans_core.vpg.adapter import VPG

LLMS = {"source": ("gpt_neox", {}), "target": ("gpt2", {"n_embd": 48})}
"""Two ordinary language models of different widths, which need no plugin: model type and changes to its tiny config."""
IMAGES = 3
SHAPES = ((40, 40), (90, 30), (20, 70))
"""Widths and heights of pictures that are cut."""


class VPGSubject(Subject[VPGFamily]):
    """One VPG family of a plugin. `config` is what a tiny VPG's config.json would say; see `Subject`."""

    kind = "VPG"

    def families(self) -> list[VPGFamily]:
        return self.opened.vpg_families

    @property
    def adapter(self) -> Any:
        tiles = (self.config or {}).get("tiles") is True
        return load(self.family.tiles if tiles else self.family.adapter)

    def make(self, seed: int = 0) -> VPG:
        """A tiny VPG; every parameter is drawn, so that none hides by being zero or one."""
        if self.config is None:
            said = f"the kit needs the config of a tiny VPG: {DECLARATION} = {{'FAMILY': {{'config': ...}}}}"
            raise CheckFailed(said, f"{DECLARATION} in the plugin's module, or `config` in the test class")
        if not hasattr(self.adapter, "from_config"):
            raise CheckFailed("the adapter has no classmethod from_config(config)", "the adapter")
        torch.manual_seed(seed)
        vpg = self.adapter.from_config(dict(self.config))
        with torch.no_grad():
            for parameter in vpg.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return vpg

    @cached_property
    def vpg(self) -> VPG:
        return self.make()

    @cached_property
    def pixels(self) -> Tensor:
        """Pictures ``[B, 3, H, W]`` of random pixels."""
        size = self.vpg.preprocessing.size
        return torch.randn(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(1))

    @cached_property
    def tiles(self) -> Tiles:
        """Pictures of several shapes and random pixels, cut as the family's preprocessing says."""
        generator, images = torch.Generator().manual_seed(3), self.vpg.preprocessing
        pictures = []
        for width, height in SHAPES:
            values = torch.randint(0, 256, (height, width, 3), generator=generator).to(torch.uint8)
            pictures.append(pixels(Image.fromarray(values.numpy()), images))
        shown = stacked(pictures)
        assert isinstance(shown, Tiles)
        return shown.change(lambda values: normalize(values, images))

    def outputs(self, vpg: VPG) -> Tensor:
        """What the projector reads of some pictures, ``[n, D]``, with the gradients of the trained part."""

        def computed(seen: Tensor) -> Tensor:
            return vpg.prompts(vpg.features(seen).detach())

        if not vpg.preprocessing.tiled:
            return computed(self.pixels).flatten(0, 1)
        return torch.cat(list(vpg.arrange(self.tiles.change(computed))))

    def llm(self, name: str) -> Path:
        """One of `LLMS` in a folder."""
        folder = self.home / name
        if not folder.is_dir():
            kind, changes = LLMS[name]
            save_tiny_llm(folder, kind, changes=dict(changes), seed=len(name))
        return folder

    @cached_property
    def projector(self) -> nn.Linear:
        from transformers import AutoConfig

        torch.manual_seed(2)
        width = AutoConfig.from_pretrained(self.llm("source")).hidden_size
        return nn.Linear(self.vpg.output_size, width, bias=self.vpg.projector_bias)

    @cached_property
    def folder(self) -> Path:
        """The tiny VPG with its projector and a reference to its LLM, as ``--save vpg`` writes it."""
        folder = self.empty("part")
        self.vpg.save_part(folder, self.projector, references={"llm": {"folder": str(self.llm("source"))}})
        return folder

    @cached_property
    def whole(self) -> Path:
        """The tiny VPG with its projector and its LLM, as ``--save model`` writes it, in a folder of its own."""
        from vpgtrans_core.llm.adapter import GenerateOptions
        from vpgtrans_core.llm.any_causal import AnyCausalLM
        from vpgtrans_core.llm.fallback import fallback_family
        from vpgtrans_core.run.decoding import write_decoding

        kind, _ = LLMS["source"]
        llm = AnyCausalLM.load(self.llm("source"), family=fallback_family(kind))
        folder = self.empty("use") / "whole"
        folder.mkdir()
        self.vpg.save_model(folder, self.projector, llm, llm_reference={"folder": str(self.llm("source"))})
        write_decoding(folder, {"options": asdict(GenerateOptions())})  # as a run does
        return folder

    @cached_property
    def transferred(self) -> Path:
        """Where a transfer of two steps from the tiny VPG has run; its result is in ``out``."""
        home = self.empty("transfer")
        transfer_two_steps(self.opened.registry, self.opened.named(self.folder), str(self.llm("target")), home)
        return home
