"""Inspect a model's soft prompts of some images (the paper's figure 5 shows their nearest words)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vpgtrans_core.data.images import normalize, pixels
from vpgtrans_core.data.tiles import stacked
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.llm.shown import flat
from vpgtrans_core.vlm.captioning import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from vpgtrans_core.vlm.model import VLModel

WORDS = 5
"""Nearest words of each soft prompt."""


@dataclass(frozen=True)
class Prompt:
    """One soft prompt of an image.

    Attributes:
        words: the nearest words, with their cosines.
        norm: its length.
    """

    words: tuple[tuple[str, float], ...]
    norm: float


@dataclass(frozen=True)
class Inspection:
    """One image.

    Attributes:
        image: its name; `picture` what the VPG sees of it, without normalisation.
        prompts: its soft prompts, in order.
        attention: ``[Q, H, W]``, where in the picture each of them looks: shares that sum to at most 1; None for a VPG
            that does not tell.
    """

    image: str
    prompts: tuple[Prompt, ...]
    picture: Image
    attention: Tensor | None

    def as_dict(self) -> dict[str, Any]:
        looks = None if self.attention is None else [[[round(v, 5) for v in row] for row in m] for m in _lists(self)]
        prompts = [asdict(prompt) | {"words": dict(prompt.words)} for prompt in self.prompts]
        return {"image": self.image, "prompts": prompts, "attention": looks}


@dataclass(frozen=True)
class Report:
    """All images of one inspection; `word_norms` is the 5th, 50th and 95th percentile of the LLM's words' norms."""

    images: tuple[Inspection, ...]
    word_norms: tuple[float, float, float]

    def as_dict(self) -> dict[str, Any]:
        return {"word_norms": list(self.word_norms), "images": [one.as_dict() for one in self.images]}


@torch.no_grad()
def inspect(model: VLModel, images: Sequence[str | Path | Image], words: int = WORDS) -> Report:
    """Inspect the soft prompts of images.

    Nearest is by cosine, measured from the mean of all words, which says nothing about which word is meant. Only tokens
    with a letter in them count as words.

    Args:
        model: in evaluation mode, see `load_model`.
        images: files or PIL images.
        words: nearest words of each soft prompt.

    Raises:
        ConfigError: `words` is not above 0. DataError: an image cannot be read.
    """
    if words < 1:
        raise ConfigError([f"words: must be above 0, not {words}"])
    names, vectors = _vocabulary(model)
    norms = vectors.norm(dim=-1)
    center = vectors.mean(0)
    directions = torch.nn.functional.normalize(vectors - center, dim=-1)
    found = []
    for number, image in enumerate(images):
        name, picture = open_image(image, number)
        shown = model.whole_pictures(stacked([pixels(picture, model.vpg.preprocessing)]))[0]
        features = model.vpg.features(normalize(shown[None].to(model.device), model.vpg.preprocessing))
        prompts = flat(model.soft_prompts(features, "features")).float()
        cosines = torch.nn.functional.normalize(prompts - center, dim=-1) @ directions.T
        nearest = [_distinct(row, names, words) for row in cosines]
        looks = model.vpg.attention_maps(features)
        found.append(
            Inspection(
                name,
                tuple(Prompt(w, float(p.norm())) for w, p in zip(nearest, prompts, strict=True)),
                _picture(shown),
                None if looks is None else looks[0].float().cpu(),
            )
        )
    low, middle, high = (float(v) for v in torch.quantile(_some(norms), torch.tensor([0.05, 0.5, 0.95])))
    return Report(tuple(found), (low, middle, high))


def _picture(shown: Tensor) -> Image:
    """uint8 pixels ``[3, S, S]`` as an image."""
    from PIL import Image

    return Image.fromarray(shown.permute(1, 2, 0).contiguous().numpy())


def _vocabulary(model: VLModel) -> tuple[list[str], Tensor]:
    """The words of the LLM, and their embeddings ``[V, D]`` in fp32 as its first block sees them."""
    llm = model.llm
    table = llm.model.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    ids = torch.arange(min(len(llm.tokenizer), len(table)), device=model.device)
    special = set(llm.tokenizer.all_special_ids)
    texts = llm.tokenizer.batch_decode([[int(i)] for i in ids])
    kept = [n for n, text in enumerate(texts) if n not in special and any(map(str.isalpha, text)) and "�" not in text]
    return [texts[n].strip() for n in kept], llm.embed(ids[kept]).float()


def _distinct(cosines: Tensor, names: Sequence[str], count: int) -> tuple[tuple[str, float], ...]:
    """The nearest words that differ by more than case and white space."""
    best: dict[str, float] = {}
    values, places = cosines.topk(min(8 * count, len(names)))
    for value, place in zip(values.tolist(), places.tolist(), strict=True):
        best.setdefault(names[place].lower(), value)
    return tuple((word, round(value, 4)) for word, value in list(best.items())[:count])


def _some(values: Tensor) -> Tensor:
    """At most a hundred thousand of the values, evenly: `torch.quantile` takes no more than 16 million."""
    return values[:: max(1, len(values) // 100_000)].cpu()


def _lists(one: Inspection) -> list[list[list[float]]]:
    return [] if one.attention is None else one.attention.tolist()
