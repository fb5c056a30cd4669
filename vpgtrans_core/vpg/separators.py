"""A family's own tokens around a picture and its tiles.

Published models learn their embeddings as rows of the LLM's table, which another LLM does not have. Here each is one of
the VPG's outputs, so that it comes to another LLM by the projector like all others, and stage 2 trains it. A whole
folder has them as rows of its LLM's table again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import read_json
from vpgtrans_core.llm.empty import config_of, empty_model
from vpgtrans_core.llm.loading import load_tokenizer
from vpgtrans_core.vpg.bare import BareVPG
from vpgtrans_core.vpg.whole import trunk_and_head
from vpgtrans_core.weights import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

NAME = "separators"
CLOSE = 1e-6
"""How near to a folder's soft prompt, relative to its length, the one of the output that stands for it has to come."""
STEPS = 500
"""Steps at most to find it: a vector that takes more lies where the projector hardly reaches, and would be huge."""


class SeparatedVPG(BareVPG):
    """What a `BareVPG` with such tokens adds: a mixin before the family's own class, whose subclass sets `separators`
    by `separated`.

    Attributes:
        separators: ``[S, D]``, the outputs that stand for `tokens`.
    """

    separators: nn.Parameter

    def separated(self, tokens: Sequence[str]) -> None:
        """Have these tokens."""
        self.tokens = tuple(tokens)
        self.separators = nn.Parameter(torch.zeros(len(self.tokens), self.output_size), requires_grad=False)

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from super().trained()
        yield NAME, self.separators

    def keep_outputs(self, units: Tensor) -> None:
        super().keep_outputs(units)
        kept = self.separators.detach()[:, units.to(self.separators.device)]
        self.separators = nn.Parameter(kept.clone(), requires_grad=False)

    def read_tensors(self, folder: Path, weights: Weights) -> dict[str, Tensor]:
        tensors = super().read_tensors(folder, weights)
        if NAME in weights:
            return {**tensors, NAME: weights.read(NAME)}
        if read_json(folder / "config.json").get("model_type") == self.part:
            raise ModelError(
                f"{folder} lacks the tensor {NAME}: it was saved by a run with one tile a picture", "leave --tiles out"
            )
        projector = self.load_projector(folder)
        if projector is None:
            raise ModelError(f"{folder} has no projector, and its tokens around tiles cannot be read without it")
        return {**tensors, NAME: outputs_for(self._rows(folder, weights), *projector)}

    def _rows(self, folder: Path, weights: Weights) -> Tensor:
        """The embeddings ``[S, D_llm]`` of the tokens in the folder's table."""
        vocabulary = load_tokenizer(folder).get_vocab()
        if missing := [token for token in self.tokens if token not in vocabulary]:
            raise ModelError(
                f"the tokenizer in {folder} lacks {len(missing)} of the tokens around tiles: {', '.join(missing[:3])}",
                "leave --tiles out: each picture is then one tile",
            )
        text = read_json(folder / "config.json").get("text_config") or {}
        name = self.whole.trunk + _table(config_of({"model_type": self.text_type, **text}))
        return weights.read(name)[[vocabulary[token] for token in self.tokens]].float()

    def whole_tensors(self, projector: nn.Linear, dtype: torch.dtype) -> dict[str, Tensor]:
        tensors = super().whole_tensors(projector, dtype)
        del tensors[NAME]  # they are rows of the LLM's table
        return tensors

    @torch.no_grad()
    def token_rows(self, projector: nn.Linear) -> Tensor:
        rows: Any = projector(self.separators.to(projector.weight))
        return rows.float()


def _table(config: PreTrainedConfig) -> str:
    """What an LLM's body calls the table of its word embeddings."""
    model = empty_model(config)
    words, trunk = model.get_input_embeddings(), trunk_and_head(model)[0]
    return next(name for name, module in model.named_modules() if module is words).removeprefix(trunk + ".") + ".weight"


def outputs_for(soft_prompts: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The outputs ``[S, D]`` that the projector ``[D_llm, D]`` maps to these soft prompts ``[S, D_llm]``, or nearly.

    By conjugate gradients from zero, which go first where the projector reaches far: they end with a short vector,
    where a solution to the last digit would be long and mean nothing to another projector.
    """
    matrix, missed = weight.double(), (soft_prompts - bias).double()
    output = torch.zeros(len(missed), matrix.shape[1], dtype=torch.float64)
    enough = CLOSE * missed.norm(dim=1)
    way = slope = missed @ matrix
    for _ in range(STEPS):
        steep = slope.square().sum(1)
        going = ((missed.norm(dim=1) > enough) & (steep > 0))[:, None]
        if not going.any():
            break
        step = way @ matrix.T
        length = _ratio(steep, step.square().sum(1)) * going
        output, missed = output + length * way, missed - length * step
        new = missed @ matrix
        way = torch.where(going, new + _ratio(new.square().sum(1), steep) * way, way)
        slope = torch.where(going, new, slope)
    return output.float()


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """``a / b`` as a column, and nothing where b is none."""
    return torch.where(b > 0, a / b, torch.zeros_like(a))[:, None]
