"""The plan of a run: what will be trained, with which shapes and counts, from configs alone.

No weight is loaded and no image opened: the modules are built on the meta device, the data is only listed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vpgtrans_core.cards import load
from vpgtrans_core.errors import ModelError
from vpgtrans_core.models.resolve import ResolvedLLM, ResolvedSource
from vpgtrans_core.planning.conversations import Conversations, conversations_of
from vpgtrans_core.recipes.adapters import LORA, lora_rank
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.registry import Registry, default_registry
from vpgtrans_core.run.batch import with_batch
from vpgtrans_core.run.positions import check_positions
from vpgtrans_core.run.spec import run_spec
from vpgtrans_core.settings import Settings, stage_settings
from vpgtrans_core.sight.cost import measures_source, source_share

if TYPE_CHECKING:
    from vpgtrans_core.planning.cost.downloads import Download
    from vpgtrans_core.planning.cost.shapes import LLMShape
    from vpgtrans_core.run.feed import TrainingData
    from vpgtrans_core.run.spec import RunSpec

Shape = tuple[int, int]
SAMPLED_IMAGES = 1000
"""Images of a source whose captions are read to estimate the mean length of captions."""


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
        tiles, most_prompts: how many tiles a usual picture has, and how many soft prompts any has at most; 1 and 0
            where pictures are not cut.
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

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        from vpgtrans_core.planning.text import plan_text

        return plan_text(self)


def plan(
    settings: Settings, *, registry: Registry | None = None, data: TrainingData | None = None, downloads: bool = True
) -> Plan:
    """Make the plan of a run.

    Args:
        settings: as for the run; ``data`` may be missing.
        registry: the plugins; default all that are installed.
        data: the opened data of all stages, if the caller has it; else the data that the settings name is listed.
        downloads: whether to find out what would be downloaded; asks the hub unless ``settings.offline``.

    Raises:
        VpgtError: a model or the data is missing or cannot be used; the same errors as the run's.
    """
    registry = registry or default_registry()
    spec = run_spec(settings, registry, weights=False)
    spec.require_teacher()
    each = [data] * len(spec.stages) if data else _open(spec)
    spec = with_batch(spec, each)
    settings, source, target = spec.settings, spec.source, spec.target
    target_plan = _model(target)
    vpg = _vpg(source, settings, registry)
    check_positions(spec, vpg.most_prompts or vpg.num_prompts)
    source_llm = _source_llm(source, settings)
    first = each[0] if each else data
    listed = _data(first, settings)
    begins = stage_settings(settings, spec.stages[0]) if spec.stages else settings
    images = _images_per_step(first, begins)
    width = target_plan.shape.embedding_size
    stages = tuple(_stage(s, spec, vpg, target_plan, d) for s, d in zip(spec.stages, each, strict=True))
    return Plan(
        settings=settings,
        source=source.name,
        source_llm=source_llm,
        target=target_plan,
        vpg=vpg,
        method=settings.method,
        start="kept" if settings.method == "tune" else settings.start,
        projector=(width, vpg.output_size),
        converter=_converter(settings, source_llm, width),
        rows=_rows(target, settings),
        stages=stages,
        batch_captions=begins.batch_size or 1,
        batch_images=images,
        batch_rule="its stage's value" if spec.stages and spec.stages[0].batch_size else spec.batch_rule,
        data=listed,
        downloads=_downloads(source, source_llm, target_plan, vpg, settings) if downloads else (),
        source_share=_source_share(settings, source_llm, target_plan, stages, first),
    )


def _source_share(
    settings: Settings,
    source: ModelPlan | None,
    target: ModelPlan,
    stages: tuple[StageWork, ...],
    data: TrainingData | None,
) -> float | None:
    """What the run's look at its source costs, by the rule that the run follows."""
    if data is None or source is None or not data.held_out_images or settings.method == "scratch":
        return None
    held_out = data.held_out_images * data.held_out.captions_a_visit()
    sizes = source.shape.parameters, target.shape.parameters
    share = source_share(*sizes, held_out, sum(stage.captions or 0 for stage in stages))
    wanted = measures_source(*sizes, share) if settings.source_loss is None else settings.source_loss
    return share if wanted else None


def _model(llm: ResolvedLLM) -> ModelPlan:
    from vpgtrans_core.planning.cost.shapes import llm_shape

    shape = llm_shape(llm.config, llm.family.adapter)
    return ModelPlan(llm.name, llm.hub_id, llm.revision, llm.origin, llm.family.name, llm.from_card, shape)


def _source_llm(source: ResolvedSource, settings: Settings) -> ModelPlan | None:
    """The source's language model; a projector that is initialised at random does not need it.

    Raises:
        ModelError: a language model is needed and the source has none.
    """
    if source.llm is None and settings.start != "random":
        raise ModelError(
            f"{source.name} has no projector that could be converted for the target LLM",
            "use --start random, or --method scratch or inherit",
        )
    return _model(source.llm) if source.llm else None


def _vpg(source: ResolvedSource, settings: Settings, registry: Registry) -> VPGPlan:
    from vpgtrans_core.vlm.assemble import vpg_source

    origin = vpg_source(source, settings, registry, weights=False)
    adapter = load(origin.vpg_family.adapter)
    sizes = adapter.describe(origin.config)
    tiles, (rows, *width) = sizes.get("tiles", 1), sizes["feature_shape"]
    return VPGPlan(
        name=origin.name,
        family=origin.vpg_family.name,
        num_prompts=sizes.get("picture_prompts", sizes["num_prompts"]),
        output_size=sizes["output_size"],
        feature_shape=(tiles * rows, *width),
        image_size=sizes["image_size"],
        frozen=sizes["frozen"],
        trained=sizes["trained"],
        projector_bias=adapter.projector_bias,
        tiles=tiles,
        most_prompts=sizes.get("most_prompts", 0),
    )


def _converter(settings: Settings, source_llm: ModelPlan | None, width: int) -> Shape | None:
    if settings.start != "converter" or source_llm is None:
        return None
    return width, source_llm.shape.embedding_size


def _rows(target: ResolvedLLM, settings: Settings) -> str:
    """How the adapter lays out captions, in words."""
    if not settings.share_prefix:
        return "one caption per row, padded"
    if target.family.encoder_decoder:
        return "captions with the same encoder text share it; segments are packed into rows"
    if target.plugin is None:
        return "captions of an image share its visual prefix, if a test of the loaded model shows that they can"
    return "captions of an image share its visual prefix; trees are packed into rows"


def _data(data: TrainingData | None, settings: Settings) -> DataPlan | None:
    if data is None:
        return None
    counts = data.train.describe()
    return DataPlan(
        images=counts["images"],
        captions=counts["captions"],
        held_out_images=data.held_out_images,
        captions_per_image=data.train.captions_a_visit(settings.captions_per_image),
        words_per_caption=_words_per_caption(data),
        described_images=sum(len(listing) for listing in data.train.listings if listing.awaits),
    )


def _words_per_caption(data: TrainingData) -> float | None:
    """Mean length of captions, from images spread over each source; None without captions."""
    words = captions = 0
    for source, rows in enumerate(data.train.train):
        for row in rows[:: max(1, len(rows) // SAMPLED_IMAGES)]:
            for caption in data.train.sample(source, int(row)).captions:
                words += len(f"{caption.prompt} {caption.text}".split())
                captions += 1
    return words / captions if captions else None


def _images_per_step(data: TrainingData | None, settings: Settings) -> int | None:
    if data is None:
        return None
    wanted = data.train.images_per_step(settings.batch_size or 1, settings.captions_per_image)
    return min(data.train.images, wanted)


def _open(spec: RunSpec) -> list[TrainingData | None]:
    """The data of each stage; None for each where a stage has none."""
    if not spec.has_data:
        return [None] * len(spec.stages)
    from vpgtrans_core.run.feed import open_stage_data

    return list(open_stage_data(spec.settings, spec.stages, spec.source_data)[: len(spec.stages)])


def _stage(stage: Stage, spec: RunSpec, vpg: VPGPlan, target: ModelPlan, data: TrainingData | None) -> StageWork:
    settings = stage_settings(spec.settings, stage)
    sizes = {"projector": vpg.projector_parameters(target.shape.embedding_size), "vpg": vpg.trained}
    if rank := lora_rank(settings.lora, spec.stages):
        sizes[LORA] = rank * target.shape.lora_weights
    trained = sum(sizes[group] for group in stage.trains)
    images_per_step = _images_per_step(data, settings)
    steps = _steps(stage, settings, data, images_per_step)
    images = None if steps is None or images_per_step is None else steps * images_per_step
    a_visit = data.train.captions_a_visit(settings.captions_per_image) if data else None
    return StageWork(
        number=stage.number,
        name=stage.name,
        trains=stage.trains,
        trained=trained,
        frozen=vpg.frozen + sum(sizes.values()) + target.shape.parameters - trained,
        data=stage.data,
        epochs=stage.epochs,
        steps=steps,
        images=images,
        captions=None if images is None or a_visit is None else round(images * a_visit),
        batch_captions=settings.batch_size or 1,
        optimizer=stage.optimizer,
        schedule=stage.schedule,
        rate=stage.lr,
        conversations=conversations_of(spec, stage, data),
    )


def _steps(stage: Stage, settings: Settings, data: TrainingData | None, images_per_step: int | None) -> int | None:
    """Steps of a stage, None when they depend on data that is not given."""
    if data is None or images_per_step is None:
        return stage.steps
    order = data.train.order(settings.seed, images_per_step, stream=stage.number)
    return stage.steps_for(order.steps(1))


def _downloads(
    source: ResolvedSource, source_llm: ModelPlan | None, target: ModelPlan, vpg: VPGPlan, settings: Settings
) -> tuple[Download, ...]:
    from vpgtrans_core.planning.cost.downloads import download_of

    inside = source_llm.shape.parameters if source_llm and source.whole else 0
    wanted = {}
    if source.origin == "hub" and source.hub_id:
        wanted[source.hub_id] = (vpg.frozen + vpg.trained + inside, source.revision)
    for llm in (target, source_llm if source_llm and not source.whole else None):
        if llm and llm.origin == "hub" and llm.hub_id:
            wanted[llm.hub_id] = (llm.shape.parameters, llm.revision)
    needed = (download_of(i, size, revision, offline=settings.offline) for i, (size, revision) in wanted.items())
    return tuple(download for download in needed if download is not None)
