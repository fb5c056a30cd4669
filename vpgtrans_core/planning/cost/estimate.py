"""Time, memory, money and disk of a transfer, from its plan."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import TYPE_CHECKING

from vpgtrans_core.cards import load
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.models.resolve import resolve_source, resolve_target
from vpgtrans_core.planning.cost import looking, paper, teaching
from vpgtrans_core.planning.cost.assumptions import Assumptions
from vpgtrans_core.planning.cost.chips import Chip
from vpgtrans_core.planning.cost.comparison import (
    as_key,
    paper_code_flops,
    paper_comparisons,
    vpg_work_of,
    without_llm,
)
from vpgtrans_core.planning.cost.costs import Cost, Fit, StageCost
from vpgtrans_core.planning.cost.flops import Flops, image_flops
from vpgtrans_core.planning.cost.holding import Held, Hold, weights_of
from vpgtrans_core.planning.cost.host import HostMemory, file_bytes, held_memory, host_memory
from vpgtrans_core.planning.cost.memory import MemoryModel
from vpgtrans_core.planning.cost.rows import RowSizes, TextSize, row_sizes
from vpgtrans_core.planning.cost.shapes import LLMShape
from vpgtrans_core.planning.cost.ways import HOLDS, QUANTIZATIONS, Way, Ways, Work
from vpgtrans_core.recipes.holding import FLOAT8, SPILLS
from vpgtrans_core.registry import Registry

if TYPE_CHECKING:
    from vpgtrans_core.planning.parts import Plan, StageWork

FULL = 0.95
"""The share of a GPU's memory that a plan fills."""
FEATURE_BYTES, OUTPUT_BYTES = 2, 4
"""Bytes per value of cached ViT features (half precision) and of cached VPG outputs (fp32)."""


class Estimator:
    """Estimates for one plan.

    Args:
        plan: of the run.
        registry: the plugins that made it.
        chip: the GPU.
        assumptions: what is taken as given.

    Raises:
        ConfigError: the GPU cannot compute as the settings say.
    """

    def __init__(self, plan: Plan, registry: Registry, chip: Chip, assumptions: Assumptions) -> None:
        if plan.settings.quantization == FLOAT8 and not chip.float8_tflops:
            raise ConfigError(
                [f"quantization: float8 needs an H100 or a later GPU, and the plan is for {chip.title}"],
                "give another --gpu, or leave --quantization out",
            )
        self.plan = plan
        self.registry = registry
        self.chip = chip
        self.assumptions = assumptions
        self.shape = plan.target.shape
        source = resolve_source(plan.settings.source, registry, plan.settings, weights=False)
        own = source.llm if plan.method == "tune" else None
        target = own or resolve_target(plan.settings.target, registry, plan.settings, weights=False)
        self._file = file_bytes(None if target.prefix else target.folder, target.config, self.shape.parameters)
        self._llm_config, self._llm_adapter = as_key(target.config), target.family.adapter
        self._vpg = source.vpg_family.adapter, as_key(without_llm(source.config))
        self.work = vpg_work_of(*self._vpg)
        self.precision = 4 if plan.settings.dtype == "float32" else 2
        self.rows = self._rows(self.shape)
        self._parallel = assumptions.gpus

    def cost(self) -> Cost:
        """The whole estimate."""
        ways = self._ways().all(self.plan.settings.quantization, self._holds())
        picked = next((way for way in ways if way.picked), None)
        self._parallel = picked.parallel if picked else self.assumptions.gpus
        scratch = paper.scratch_like(self.shape.encoder_decoder)
        from_scratch = self._stage_cost(None, scratch.pairs)
        theirs = paper_code_flops(self.shape, self.work, self.plan.vpg.num_prompts, self.plan.vpg.output_size, True)
        return Cost(
            chip=self.chip,
            assumptions=self.assumptions,
            stages=tuple(self._stage_cost(s, self.captions(s)) for s in self.plan.stages),
            scratch=from_scratch,
            scratch_paper_code=self._hours(theirs * scratch.pairs),
            fits=tuple(self.fit(stage, picked) for stage in self.plan.stages),
            disk=self.disk(),
            host=picked.host if picked else self._host("copies", 0.0),
            paper=paper_comparisons(self.registry, self.assumptions.mfu),
            describing=self._describing(),
            looks=tuple(look for look in (self._source_loss(), self._start()) if look is not None),
            ways=ways,
        )

    def _ways(self) -> Ways:
        """What every way to hold the LLM is judged by."""
        stages = tuple(map(self._work, self.plan.stages))
        return Ways(self.chip, self.assumptions.gpus, FULL, self.assumptions.price, stages, self._host)

    def _work(self, stage: StageWork) -> Work:
        flops = self._flops(stage)
        images = stage.batch_captions / self._learned(stage)
        return Work(
            model=lambda quantization, checkpointing: self.memory_model(stage, quantization, checkpointing),
            steps=self.captions(stage) / stage.batch_captions,
            images=math.ceil(images),
            seconds=3600 * self._hours(flops.total * images),
            again=3600 * self._hours(flops.llm_forward * images),
            trained=stage.trained,
        )

    def _host(self, hold: Hold, away: float) -> HostMemory:
        gpus, settings = self.assumptions.gpus, self.plan.settings
        if hold == "copies":
            return host_memory(self.shape, settings, self._file, self.precision, gpus)
        weights = weights_of(self.shape, self.precision)
        part = weights.outside + weights.block * weights.layers / gpus if hold == "shards" else None
        return held_memory(self.shape, settings, self._file, self.precision, gpus, part=part, away=away)

    def _holds(self) -> tuple[Hold, ...]:
        """Where the LLM may be, by the settings and the number of GPUs."""
        place, shard = self.plan.settings.place, getattr(self.plan.settings, "shard", None)
        if place or shard:
            return ("shards",) if shard else ("spilled",) if place == SPILLS else ("spread",)
        several = self.assumptions.gpus > 1
        if self.chip.name == "cpu" or self.plan.settings.device == "cpu":
            return ("copies",)
        return HOLDS if several else ("copies", "spilled")

    def captions(self, stage: StageWork) -> float:
        """Captions that a stage trains on: the data's, those of its steps, or as many as in the paper."""
        if stage.captions is not None:
            return stage.captions
        if stage.steps is not None:
            return stage.steps * stage.batch_captions
        if self.plan.method == "scratch":
            return paper.scratch_like(self.shape.encoder_decoder).pairs
        like = paper.transfer_like(self.shape.encoder_decoder)
        return like.pairs_of(stage.trains_vpg) * (stage.epochs or 0)

    def fit(self, stage: StageWork, way: Way | None = None) -> Fit:
        """How many images at once fit, as the LLM is held; where nothing holds it, not one.

        The parts that the settings fix (recomputed activations, positions at once) are left as they are.
        """
        room = FULL * self.chip.memory_gb * 1e9
        hold, quantization = (way.hold, way.quantization) if way else ("copies", self._smallest())
        parallel = way.parallel if way else self.assumptions.gpus
        a_step = math.ceil(stage.batch_captions / self._learned(stage) / parallel)
        always = self.plan.settings.checkpoint_activations or hold == "spilled"
        for checkpointing in (True,) if always else (False, True):
            model = self._ways().held(self._work(stage), hold, quantization, checkpointing)
            if most := model.most_images(room, a_step):
                return self._fit(stage, model, most)
        return self._fit(stage, model, 0)

    def _smallest(self) -> str:
        given = self.plan.settings.quantization
        return QUANTIZATIONS[-1] if given == "none" else given

    def memory_model(self, stage: StageWork, quantization: str, checkpointing: bool) -> MemoryModel:
        """The memory of a stage as a function of the images computed at once."""
        rows = self.rows_of(stage)
        return MemoryModel(
            shape=self.shape,
            vpg=self.plan.vpg,
            rows=rows,
            llm_saved=_llm_saved(self._llm_config, self._llm_adapter, rows, self.precision),
            vpg_saved=_vpg_saved(*self._vpg),
            trained=stage.trained,
            trains_vpg=stage.trains_vpg,
            precision=self.precision,
            quantization=quantization,
            checkpointing=checkpointing,
        )

    def disk(self) -> dict[str, float]:
        """Bytes on disk: caches (each only if it is kept) and the model folder."""
        vpg, data = self.plan.vpg, self.plan.data
        captions = sum(self.captions(s) / max(s.epochs or 1.0, 1.0) for s in self.plan.stages[:1])
        images = data.images if data else captions / self.assumptions.captions_per_image
        whole = self.plan.settings.save == "model"
        kept = vpg.trained + vpg.projector_parameters(self.shape.embedding_size)
        frozen = vpg.frozen * 4 + self.shape.loaded * self.precision
        return {
            "cache_of_vpg_outputs": images * OUTPUT_BYTES * vpg.num_prompts * vpg.output_size,
            "cache_of_vit_features": images * FEATURE_BYTES * math.prod(vpg.feature_shape),
            "model_folder": kept * 4 + (frozen if whole else 0),
            "checkpoint": 12 * max((s.trained for s in self.plan.stages), default=0),
        }

    def _fit(self, stage: StageWork, model: Held, most: int) -> Fit:
        wanted, each = self.plan.settings.micro_positions, self.rows_of(stage).all_positions
        images = most if wanted is None else max(1, int(wanted / each))
        return Fit(
            stage=stage.number,
            name=stage.name,
            images=images if most else 0,
            most_images=most,
            positions=round((images if most else 1) * each),
            quantization=model.quantization,
            checkpointing=model.checkpointing,
            memory=model.at(max(images, 1)),
        )

    def rows_of(self, stage: StageWork | None) -> RowSizes:
        """What the target computes of one image of a stage; None for one of captions."""
        talk = stage.conversations if stage else None
        return self.rows if talk is None else self._rows(self.shape, TextSize(talk.tokens, talk.texts), talk.longest)

    def _learned(self, stage: StageWork | None) -> float:
        """How many captions, or answers of conversations, one image brings."""
        talk = stage.conversations if stage else None
        return self.rows.captions if talk is None else talk.answers

    def _rows(self, shape: LLMShape, text: TextSize | None = None, longest: int | None = None) -> RowSizes:
        """What an LLM computes of one image; by default of one with captions."""
        return row_sizes(
            text or TextSize(self.assumptions.caption_tokens, self.assumptions.captions_per_image),
            self.plan.vpg.num_prompts,
            shape.embedding_size,
            encoder_decoder=shape.encoder_decoder,
            share=self.plan.settings.share_prefix,
            max_tokens=longest or self.plan.settings.max_tokens,
            start_first=self.plan.settings.bos == "first",
        )

    def _stage_cost(self, stage: StageWork | None, captions: float) -> StageCost:
        """The cost of a stage of the plan; None for training from scratch, which trains the VPG."""
        flops = self._flops(stage)
        each = flops.total / self._learned(stage)
        return self._cost(stage.number if stage else 0, stage.name if stage else "from scratch", captions, flops, each)

    def _flops(self, stage: StageWork | None) -> Flops:
        """FLOPs of an image in a stage; None for training from scratch."""
        vpg = self.plan.vpg
        return image_flops(
            self.shape,
            self.work,
            self.rows_of(stage),
            trains_vpg=stage is None or stage.trains_vpg,
            num_prompts=vpg.num_prompts,
            output_size=vpg.output_size,
        )

    def _describing(self) -> StageCost | None:
        """The cost of the source's captions; None where it writes none."""
        images, captions = teaching.described(self.plan)
        if not images:
            return None
        flops = teaching.describing_flops(self.plan, self.work, self.assumptions.caption_tokens)
        each, name = flops.total / captions, "captions by the source"
        return self._cost(0, name, images * captions, flops, each, teaching.SLOWER)

    def _start(self) -> StageCost | None:
        """The passes of the start from words; None where the projector starts otherwise."""
        each = looking.forward_flops(self.plan, self.shape, self.work, self.rows)
        return self._look("start from words", looking.start_passes(self.plan), each, self.rows)

    def _source_loss(self) -> StageCost | None:
        """The source's own loss; None where it is not measured."""
        if self.plan.source_llm is None:
            return None
        shape = self.plan.source_llm.shape
        rows = self._rows(shape)
        each = looking.forward_flops(self.plan, shape, self.work, rows)
        return self._look("source's own loss", looking.source_passes(self.plan), each, rows)

    def _look(self, name: str, passes: tuple[float, float], flops: Flops, rows: RowSizes) -> StageCost | None:
        """Forward passes of so many images through the VPG, and of so many through an LLM."""
        seen, read = passes
        if not read:
            return None
        captions, vpg = read * rows.captions, flops.features + flops.prompts
        total = seen * vpg + read * (flops.total - vpg)
        return self._cost(0, name, captions, flops, total / captions)

    def _cost(
        self, number: int, name: str, captions: float, flops: Flops, each: float, slower: float = 1.0
    ) -> StageCost:
        gpu_hours = slower * self._hours(each * captions)
        return StageCost(
            number=number,
            name=name,
            captions=captions,
            flops=flops,
            flops_per_caption=each,
            total_flops=each * captions,
            hours=gpu_hours / self._parallel,
            gpu_hours=gpu_hours,
            usd=gpu_hours / self._parallel * self.assumptions.gpus * self.assumptions.price,
        )

    def _hours(self, flops: float) -> float:
        return flops / (self.chip.tflops * 1e12 * self.assumptions.mfu) / 3600


@lru_cache(maxsize=16)
def _vpg_saved(adapter: str, config: str) -> float:
    """Bytes that the VPG's trained part keeps of one image for the backward pass."""
    from vpgtrans_core.planning.cost.trace import vpg_saved_bytes

    return vpg_saved_bytes(load(adapter), json.loads(config))


@lru_cache(maxsize=16)
def _llm_saved(config: str, adapter: str, rows: RowSizes, precision: int) -> float:
    """Bytes that the LLM keeps of one image for the backward pass."""
    import torch

    from vpgtrans_core.planning.cost.trace import llm_saved_bytes

    return llm_saved_bytes(json.loads(config), adapter, rows, {2: torch.bfloat16, 4: torch.float32}[precision])
