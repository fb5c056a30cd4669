"""The plan of a run: what will be trained, with which shapes and counts, from configs alone.

No weight is loaded and no image opened: the modules are built on the meta device, the data is only listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpgtrans_core.cards import load
from vpgtrans_core.errors import ModelError
from vpgtrans_core.models.resolved import ResolvedLLM, ResolvedSource
from vpgtrans_core.planning.conversations import conversations_of
from vpgtrans_core.planning.parts import DataPlan, ModelPlan, Plan, Shape, StageWork, VPGPlan
from vpgtrans_core.recipes.adapters import LORA, lora_rank
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.registry import Registry, default_registry
from vpgtrans_core.run.batch import with_batch
from vpgtrans_core.run.positions import check_positions, too_large_pictures
from vpgtrans_core.run.spec import run_spec
from vpgtrans_core.settings import Settings, stage_settings
from vpgtrans_core.sight.cost import measures_source, source_share

if TYPE_CHECKING:
    from vpgtrans_core.planning.cost.downloads import Download
    from vpgtrans_core.run.feed import TrainingData
    from vpgtrans_core.run.spec import RunSpec

SAMPLED_IMAGES = 1000
"""Images of a source whose captions are read to estimate the mean length of captions."""


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
    check_positions(spec, vpg.tile_prompts)
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
        too_large=too_large_pictures(spec, vpg.most_prompts),
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
        tile_prompts=sizes["num_prompts"],
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
