"""One run: data, VPG, LLM, initial projector, stages, finished folder."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from vpgtrans_core.cache.opening import wants_cache
from vpgtrans_core.cards import RunEvent
from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.llm.blocks import compiler_errors_are_told, why_not_compile
from vpgtrans_core.loggers import add_loggers, check_loggers
from vpgtrans_core.machine import Machine, choose_machine
from vpgtrans_core.processes.heartbeat import other_processes
from vpgtrans_core.processes.launching import remarks
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.run.agreement import check_start
from vpgtrans_core.run.batch import with_batch
from vpgtrans_core.run.chatting import chat_stage, stage_template
from vpgtrans_core.run.continuing import check_state, resume_stage
from vpgtrans_core.run.decoding import choose_decoding, told
from vpgtrans_core.run.feed import Feed, TrainingData, open_stage_data, training_captions
from vpgtrans_core.run.finish import check_output, check_writable, identity, write_model
from vpgtrans_core.run.folder import DONE, RunFolder, now, open_folder, recording_failures
from vpgtrans_core.run.identity import HASHES, begun_with, note_changes
from vpgtrans_core.run.inputs import inputs_of, refuse_inside
from vpgtrans_core.run.narrowing import NARROWED_IMAGES, keep_narrowed, narrow_vpg
from vpgtrans_core.run.pictures import PictureWatch
from vpgtrans_core.run.positions import check_positions, too_large_pictures
from vpgtrans_core.run.record import begun_record, first_record, models_record, stage_record
from vpgtrans_core.run.resuming import output_folder
from vpgtrans_core.run.seeing import Seeing, verdict_of
from vpgtrans_core.run.self_check import self_check
from vpgtrans_core.run.skipped import skipped
from vpgtrans_core.run.source_loss import measure_source
from vpgtrans_core.run.spec import RunSpec
from vpgtrans_core.run.watching import Watcher
from vpgtrans_core.settings import stage_settings
from vpgtrans_core.sight.verdict import sentence
from vpgtrans_core.start.choose import kept_projector, start_projector
from vpgtrans_core.start.probe import StartProbe
from vpgtrans_core.start.projector import Linear
from vpgtrans_core.start.same_base import AS_GOOD
from vpgtrans_core.teaching.teacher import Teacher
from vpgtrans_core.train.checkpoint import Checkpoint, newest_checkpoint
from vpgtrans_core.train.recipe import compiles, stage_optimizer, stage_plan
from vpgtrans_core.train.stage import Progress, StageRunner, load_weights
from vpgtrans_core.train.step import Stepper
from vpgtrans_core.vlm.assemble import (
    blank_projector,
    load_llm,
    load_vpg,
    micro_positions,
    source_words,
    stage_lora,
    vpg_source,
)
from vpgtrans_core.vlm.model import VLModel
from vpgtrans_core.vpg.adapter import VPG

START_CAPTIONS = 200_000
"""Training captions whose words are paired between the two vocabularies; more captions add few words."""
FIRST_STREAM = 1
"""The stream that orders the images for the projector's initialisation, whatever the number of the first stage."""


class Run:
    """One run on this machine, in its folder.

    Args:
        spec: what to do.
        reporter: receives the progress.

    Raises:
        ConfigError: the output folder cannot be used, or the finished model could not be written as asked.
    """

    def __init__(self, spec: RunSpec, reporter: Progress) -> None:
        self.spec = spec
        self.settings = spec.settings
        self.reporter = reporter
        self.machine: Machine = choose_machine(spec.settings, spec.target.family.half)
        for remark in remarks(os.environ, self.settings.shard):
            reporter.warning(remark)
        check_output(spec)
        out = output_folder(spec.settings)
        check_loggers(spec.settings.log)
        refuse_inside(out, inputs_of(spec))
        with other_processes(self.machine.accelerator, out):
            self.folder: RunFolder = open_folder(out, spec.settings, self.machine, begun_record(spec))
        if self.machine.is_main:
            add_loggers(spec.settings.log, self.folder.path, spec.registry)

    def run(self) -> None:
        """Train, and write the finished model; a failure is recorded and raised."""
        with recording_failures(self.folder, self._emit), other_processes(self.machine.accelerator, self.folder.path):
            model, data = self.train()
            self.finish(model, data)

    def train(self) -> tuple[VLModel, list[TrainingData]]:
        """Run all stages; return the trained model, and the data of each stage."""
        self._emit("run_start")
        models = models_record(self.spec)
        data = self._open_data(models)
        begun = begun_with(self.settings, models, data)
        check_start(self.machine.accelerator, begun)
        self.pictures = PictureWatch(self.folder, data, self.machine.accelerator)
        checkpoint = self._checkpoint(begun)
        self.pictures.keep()
        names = dict.fromkeys((self.spec.source.name, self.spec.target.name))
        self.reporter.message(f"loading {' and '.join(names)}")
        vpg = self._load_vpg()
        check_positions(self.spec, vpg.num_prompts)
        if said := too_large_pictures(self.spec, vpg.most_prompts):
            self.reporter.message(said)
        seeing = self._look_at_source(data)
        llm = load_llm(self.spec.target, self.machine, self.settings, vpg)
        self.templates = [stage_template(self.spec, stage, llm.tokenizer) for stage in self.spec.stages]
        chat = chat_stage(self.spec.stages)
        template = stage_template(self.spec, chat, llm.tokenizer)
        projector = self._narrow(vpg, llm, data, resumed=checkpoint is not None)
        model = VLModel(vpg, _blank(vpg, llm), llm, template)
        model.to(self.machine.device)
        check_writable(self.folder, model, self.spec.target, self.settings)
        model.lora = stage_lora(llm, self.settings, self.spec.stages)
        for place, stage in enumerate(self.spec.stages):
            self._feed(model, data, place, stage.number).check_lengths()
        if checkpoint is None:
            self._start(model, self._feed(model, data, 0, FIRST_STREAM), projector)
        compiled = self._compile(model, data)
        record = first_record(self.spec, self.folder, self.machine, model, data[0], models, compiled)
        self.folder.write_record(**record, template=template.name if template and chat else None)
        for place, stage in enumerate(self.spec.stages):
            if checkpoint is None or stage.number >= checkpoint.stage:
                feed = self._feed(model, data, place, stage.number)
                self._train_stage(stage, model, feed, checkpoint, begun, compiled, seeing)
                checkpoint = None
        if checkpoint is not None:  # of a stage that the run no longer has
            load_weights(model, checkpoint)
        return model, data

    # Before training

    def _open_data(self, models: dict[str, Any]) -> list[TrainingData]:
        """The data of each stage; images without captions are described by the source, if that is asked for."""
        llm = identity(self.spec.source.llm) if self.settings.captions and self.spec.source.llm else {}
        files = {kind: [model.get(kind, {}) for model in (models["source"], llm)] for kind in HASHES}
        teacher = Teacher(self.spec.source, self.settings, self.machine, self.folder.path, files, self.reporter)
        try:
            data = open_stage_data(self.settings, self.spec.stages, self.spec.source_data, teacher.describe)
        finally:
            teacher.close()
        if self.settings.captions:
            self.folder.write_record(captions=teacher.record)
            if not teacher.record:
                self.reporter.warning("every image has captions: --captions source writes none")
        data[0].caches.say = self.reporter.message
        self._size_batch(data)
        return data

    def _size_batch(self, data: list[TrainingData]) -> None:
        """Choose the batch size by the data where it is open; a resumed run has it in its settings."""
        self.spec = with_batch(self.spec, data)
        self.settings = self.spec.settings
        batch = self.folder.record.get("batch")
        if batch is None or batch["captions"] != self.settings.batch_size:
            batch = {"captions": self.settings.batch_size, "rule": self.spec.batch_rule}
            self.folder.write_record(batch=batch)
        if any(stage.batch_size is None for stage in self.spec.stages):
            self.reporter.message(f"{batch['captions']:,} captions a step: {batch['rule']}")

    def _checkpoint(self, begun: dict[str, Any]) -> Checkpoint | None:
        """The checkpoint to resume from, None to start at the first step.

        Raises:
            ConfigError: settings, data or models have changed since the run started, and the change is not accepted.
            ModelError: every checkpoint is damaged, or the newest one is not of this run.
        """
        checkpoint = None
        if self.settings.resume:
            checkpoint = newest_checkpoint(self.folder.checkpoints, self.reporter.warning)
            if checkpoint is not None:
                numbers = [stage.number for stage in self.spec.stages]
                check_state(checkpoint, numbers, self.folder, accept=self.settings.accept_changes)
            replaced = self.pictures.replaced(self.reporter.warning) if checkpoint is not None else []
            note_changes(self.folder, checkpoint, begun, self.spec, self.reporter.warning, replaced)
            if checkpoint is None:
                self.reporter.message(f"there is no checkpoint in {self.folder.path}: starting at the first step")
        if checkpoint is None:
            self.folder.cut_metrics(0)  # a resumed run without a checkpoint starts again
        return checkpoint

    def _load_vpg(self) -> VPG:
        source = vpg_source(self.spec.source, self.settings, self.spec.registry)
        return load_vpg(source, self.machine, lazily=wants_cache(self.settings))

    def _look_at_source(self, data: list[TrainingData]) -> Seeing:
        """What the source itself sees; a resumed run has it in its record."""
        if self.folder.record.get("source_sight") is None or not self.settings.resume:
            self.folder.write_record(source_sight=measure_source(self.spec, data, self.machine))
        return Seeing(self.machine, self.folder.record["source_sight"])

    def _narrow(self, vpg: VPG, llm: LLM, data: Sequence[TrainingData], resumed: bool) -> Linear | None:
        """Leave out outputs of the VPG where the finished model's folder has no room for all of them; return the
        source's projector from those that stay, None where all do. A resumed run keeps what it began with."""
        if resumed:
            keep_narrowed(self.folder, vpg)
            return None
        width = vpg.widest(llm.embedding_size) if self.settings.save == "model" else None
        if width is None or width >= vpg.output_size:
            return None
        model = VLModel(vpg, _blank(vpg, llm), llm).to(self.machine.device)
        batches = self._feed(model, data, 0, FIRST_STREAM).some_batches(NARROWED_IMAGES)
        return narrow_vpg(model, batches, width, self.spec, self.folder, self.machine, self.reporter)

    def _start(self, model: VLModel, feed: Feed, projector: Linear | None) -> None:
        """Initialise the projector, alike in every process; `projector` is the source's, None for the one on disk."""
        model.train_only(("projector",))
        if self.settings.method == "tune":
            started = kept_projector(self.spec.source, model)
        else:
            started = start_projector(
                self.settings,
                StartProbe(model, feed, self._stepper(model)),
                source=lambda: source_words(self.spec.source, self.spec.registry, projector),
                captions=lambda: itertools.islice(training_captions(feed.data), START_CAPTIONS),
                say=self.reporter.message,
            )
        with torch.no_grad():
            for parameter, value in zip(model.projector.parameters(), started.projector, strict=False):  # no bias?
                parameter.copy_(self.machine.accelerator.broadcast(value.to(model.device)))
        self.folder.write_record(start=started.record)
        self.reporter.message(f"projector initialised: {_brief(started.record)}")

    def _compile(self, model: VLModel, data: Sequence[TrainingData]) -> bool:
        """Compile the LLM if the run gains from it and torch can; return whether it is compiled."""
        captions = 0
        for place, stage in enumerate(self.spec.stages):
            feed = self._feed(model, data, place, stage.number)
            captions += stage.steps_for(feed.steps_per_epoch) * (feed.settings.batch_size or 1)
        if not compiles(self.settings, self.machine, model.llm, captions):
            return False
        if cause := why_not_compile(self.machine.device):
            self.reporter.warning(f"the LLM runs uncompiled, because torch cannot compile here: {cause}")
            return False
        self.reporter.message("compiling the LLM; the first steps take longer")
        model.llm.compile()
        if self.settings.compile:  # by default not: what it brings was not measured
            model.compile_vit()
        return True

    # Training

    def _train_stage(
        self,
        stage: Stage,
        model: VLModel,
        feed: Feed,
        checkpoint: Checkpoint | None,
        begun: dict[str, Any],
        compiled: bool,
        seeing: Seeing,
    ) -> None:
        """Run one stage, from `checkpoint` if there is one, and record it; `begun` goes into its checkpoints."""
        model.train_only(stage.trains)
        plan = stage_plan(self.settings, stage, feed.steps_per_epoch, feed.held_out_steps)
        stepper = self._stepper(model, feed)
        runner = StageRunner(
            plan,
            model,
            stepper,
            stage_optimizer(self.settings, stage, model),
            feed.batches(plan.steps),
            feed.held_out,
            self.folder,
            self.reporter,
            self._changed_by(stage),
            self.spec.registry.emit,
            extra_state=lambda: {"feed": feed.state(), "begun_with": begun},
        )
        if checkpoint is not None:
            own = self.settings.micro_positions is None
            accept = self.settings.accept_changes
            if resume_stage(runner, feed, checkpoint, micro_positions=own, accept=accept):
                self.reporter.message(f"resuming stage {checkpoint.stage} after step {checkpoint.step}")
        lines = seeing.lines(stepper, feed)  # after the weights are there: what a frozen VPG makes of images is kept
        model.train_only(stage.trains)
        runner.validated = Watcher(
            plan,
            feed,
            self.folder,
            lines,
            self.reporter.warning,
            lambda step, texts: self._emit("samples", stage.number, step, said=texts),
        )
        same_base = "same_base" in self.folder.record.get("start", {})
        if same_base and stage.early_stop and lines.source is not None:
            runner.enough = AS_GOOD * lines.source
        if runner.state.step == 0:
            self.folder.add_metrics(stage=stage.number, step=0, **lines.as_lines())
        began = time.monotonic()
        with compiler_errors_are_told() if compiled else contextlib.nullcontext():
            state = runner.run()
        losses = seeing.after(stepper, feed, state)
        done = stage_record(stage, state, time.monotonic() - began, self.machine.device) | feed.tell_lengths()
        done["sight"] = losses.record()
        if text := sentence(losses):
            self.folder.add_metrics(stage=stage.number, step=state.step, exchanged_loss=losses.exchanged)
            self.reporter.message(f"stage {stage.number}: {text}")
        self._emit("sight", stage.number, state.step, **losses.record())
        data = {"data": feed.all.record()}
        stages = {**self.folder.record.get("stages", {}), str(stage.number): done | (data if stage.data else {})}
        self.folder.write_record(stages=stages, **({} if stage.data else data))

    def _changed_by(self, last: Stage) -> set[str]:
        """The parameter groups changed by the end of stage `last`; the projector at least, by its initialisation."""
        return {"projector"}.union(*(stage.trains for stage in self.spec.stages if stage.number <= last.number))

    def _feed(self, model: VLModel, data: Sequence[TrainingData], place: int, stream: int) -> Feed:
        """The batches of the stage at `place` in the list (of the run if it has no stages)."""
        if not self.spec.stages:
            return Feed(data[0], self.settings, model, self.machine, stream, say=self.reporter.warning)
        stage = self.spec.stages[place]
        settings = stage_settings(self.settings, stage)
        template = self.templates[place]
        return Feed(data[place], settings, model, self.machine, stream, stage, template, self.reporter.warning)

    def _stepper(self, model: VLModel, feed: Feed | None = None) -> Stepper:
        positions = micro_positions(self.machine, model.llm, self.settings)
        keep = feed.keep if feed is not None else None
        return Stepper(model, self.machine.accelerator, positions, self.machine.autocast, keep)

    # After training

    def finish(self, model: VLModel, data: Sequence[TrainingData]) -> None:
        """Check the model's captions, and write the model."""
        model.requires_grad_(False)
        model.eval()
        if self.settings.save == "model":
            model.merge_lora()  # what is checked is what is written
        examples = self_check(model, self._feed(model, data, -1, FIRST_STREAM))
        verdict = verdict_of(self.folder.record.get("stages", {}), examples)
        for warning in verdict.warnings:
            self.reporter.warning(warning)
        self.folder.write_record(self_check={"examples": examples}, verdict=verdict.record())
        self._choose_decoding(model, data)
        if self.machine.is_main:
            if replaced := self.pictures.meanwhile():
                self.folder.write_record(pictures_changed=replaced)
                for line in replaced:
                    self.reporter.warning(f"while the run was at work: {line}")
            self.reporter.message(f"writing {self.folder.path}")
            write_model(self.folder, model, self.spec.source, self.spec.target, self.settings)
            self.folder.write_record(status=DONE, ended=now())
            self.folder.remove_checkpoints()
        for part in {id(part): part for part in data}.values():
            for line in skipped(part.record()):
                self.reporter.warning(line)
        self.machine.accelerator.wait_for_everyone()
        self._emit("run_end")

    def _choose_decoding(self, model: VLModel, data: Sequence[TrainingData]) -> None:
        feed = self._feed(model, data, -1, FIRST_STREAM)
        if feed.texts == "caption":
            decoding = choose_decoding(model, feed)
            self.folder.write_record(decoding=decoding)
            if (text := told(decoding)) is not None:
                self.reporter.warning(text)

    def _emit(self, kind: str, stage: int | None = None, step: int | None = None, **values: Any) -> None:
        self.spec.registry.emit(RunEvent(kind, str(self.folder.path), stage, step, values))


def _brief(record: dict[str, Any]) -> str:
    items: Iterable[str] = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
    return ", ".join(items)


def _blank(vpg: VPG, llm: LLM) -> torch.nn.Linear:
    return blank_projector(vpg.output_size, llm.embedding_size, has_bias=vpg.projector_bias)
