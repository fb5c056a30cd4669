"""What a plan holds: models, data and stages with their shapes and counts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vpgtrans_core.planning.conversations import Conversations
from vpgtrans_core.settings import Settings

if TYPE_CHECKING:
    from vpgtrans_core.planning.cost.downloads import Download
    from vpgtrans_core.planning.cost.shapes import LLMShape

Shape = tuple[int, int]


@dataclass(frozen=True)
class ModelPlan:
    """A language model of the run: its identity and its sizes.

    Attributes:
        from_card: its sizes come from vpgt's own table, because the hub could not be reached.
    """

    name: str
    hub_id: str | None
    revision: str | None
    origin: str
    family: str
    from_card: bool
    shape: LLMShape


@dataclass(frozen=True)
class VPGPlan:
    """The VPG of the run.

    Attributes:
        name: the source that it comes from; for training from scratch the pre-trained VPG.
        num_prompts, output_size: Q and D of its output ``[Q, D]``; where pictures are cut into tiles, those of a usual
            picture.
        feature_shape: the shape of the frozen part's output for one image.
        tiles, tile_prompts, most_prompts: how many tiles a usual picture has, how many soft prompts each of them has,
            and how many positions of the LLM any picture takes at most (0 where pictures are not cut).
        frozen, trained: parameters that stay frozen in stage 2, and those that it trains.
        projector_bias: whether the projector after it has a bias.
    """

    name: str
    family: str
    num_prompts: int
    output_size: int
    feature_shape: tuple[int, ...]
    image_size: int
    frozen: int
    trained: int
    projector_bias: bool = True
    tiles: int = 1
    tile_prompts: int = 0
    most_prompts: int = 0

    def projector_parameters(self, embedding_size: int) -> int:
        """Parameters of the projector to an LLM of this embedding size."""
        return embedding_size * (self.output_size + self.projector_bias)


@dataclass(frozen=True)
class DataPlan:
    """The training data: images and captions of one epoch.

    Attributes:
        captions: at most, where the source describes images.
        described_images: images without captions, which the source describes.
        words_per_caption: None where there is no caption yet.
    """

    images: int
    captions: int
    held_out_images: int
    captions_per_image: float
    """Captions used each time an image is drawn, on average."""
    words_per_caption: float | None
    described_images: int = 0


@dataclass(frozen=True)
class StageWork:
    """What one stage does.

    Attributes:
        trains: the groups of parameters that it trains; `trained` and `frozen` count parameters.
        data: its own data; empty for the run's.
        steps, images, captions: None where no data is given and the settings name no steps.
        batch_captions: of one step, over all processes; where conversations are learned, the answers of one step.
        rate: the peak learning rate.
        conversations: what an image brings where conversations are learned; None for captions. `captions` then counts
            answers.
    """

    number: int
    name: str
    trains: tuple[str, ...]
    trained: int
    frozen: int
    data: tuple[str, ...]
    epochs: float | None
    steps: int | None
    images: int | None
    captions: int | None
    batch_captions: int
    optimizer: str
    schedule: str
    rate: float
    conversations: Conversations | None = None

    @property
    def trains_vpg(self) -> bool:
        return "vpg" in self.trains


@dataclass(frozen=True)
class Plan:
    """All that is known of a run before it starts.

    Attributes:
        settings: every setting, the recipe's values filled in.
        source: the source's name; `source_llm` its language model, None for a VPG alone.
        projector: shape ``[D_target, D]`` of the projector's weight.
        converter: shape ``[D_target, D_source]`` of the word converter, None where the start needs none.
        rows: how the captions of an image are laid out for the target LLM, in words.
        batch_captions, batch_images: of one step, over all processes; images None without data.
        batch_rule: where the number of captions comes from.
        data: None when no data is given.
        downloads: models to download from the hub.
        source_share: the work of measuring the source's own held-out loss, as a share of the training's; None where it
            is not measured, or without data.
        too_large: what to know of pictures that the target has too few positions for; None where every one fits.
    """

    settings: Settings
    source: str
    source_llm: ModelPlan | None
    target: ModelPlan
    vpg: VPGPlan
    method: str
    start: str
    projector: Shape
    converter: Shape | None
    rows: str
    stages: tuple[StageWork, ...]
    batch_captions: int
    batch_images: int | None
    batch_rule: str
    data: DataPlan | None
    downloads: tuple[Download, ...]
    source_share: float | None = None
    too_large: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        from vpgtrans_core.planning.text import plan_text

        return plan_text(self)
