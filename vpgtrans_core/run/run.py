"""One run: data, VPG, LLM, initial projector, stages, finished folder."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from vpgtrans_core.cache.opening import wants_cache
from vpgtrans_core.cards import RunEvent
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.llm.blocks import why_not_compile
from vpgtrans_core.machine import Machine, choose_machine
from vpgtrans_core.processes.heartbeat import other_processes
from vpgtrans_core.processes.launching import remarks
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.run.feed import Feed, TrainingData, open_stage_data, training_captions
from vpgtrans_core.run.finish import check_output, check_writable, write_model
from vpgtrans_core.run.folder import DONE, RunFolder, fail, now, open_folder
from vpgtrans_core.run.identity import begun_with, note_changes
from vpgtrans_core.run.record import begun_record, first_record, models_record, stage_record
from vpgtrans_core.run.resuming import output_folder
from vpgtrans_core.run.self_check import self_check
from vpgtrans_core.run.skipped import skipped
from vpgtrans_core.run.spec import RunSpec
from vpgtrans_core.settings import stage_settings
from vpgtrans_core.start.choose import start_projector
from vpgtrans_core.start.probe import StartProbe
from vpgtrans_core.train.checkpoint import Checkpoint, newest_checkpoint
from vpgtrans_core.train.recipe import compiles, stage_optimizer, stage_plan
from vpgtrans_core.train.stage import Progress, StageRunner, load_weights
from vpgtrans_core.train.step import Stepper
from vpgtrans_core.vlm.assemble import blank_projector, load_llm, load_vpg, source_words, vpg_source
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
        for remark in remarks(os.environ):
            reporter.warning(remark)
        check_output(spec)
        out = output_folder(spec.settings)
        with other_processes(self.machine.accelerator, out):
            self.folder: RunFolder = open_folder(out, spec.settings, self.machine, begun_record(spec))

    def run(self) -> None:
        """Train, and write the finished model; a failure is recorded and raised."""
        with self._failures_are_recorded(), other_processes(self.machine.accelerator, self.folder.path):
            model, data = self.train()
            self.finish(model, data)

    def train(self) -> tuple[VLModel, list[TrainingData]]:
        """Run all stages; return the trained model, and the data of each stage."""
        self._emit("run_start")
        data = self._open_data()
        models = models_record(self.spec)
        begun = begun_with(self.settings, models, data)
        checkpoint = self._checkpoint(begun)
        self.reporter.message(f"loading {self.spec.source.name} and {self.spec.target.name}")
        vpg = self._load_vpg()
        llm = self._load_llm()
        model = VLModel(vpg, blank_projector(vpg.output_size, llm.embedding_size), llm).to(self.machine.device)
        check_writable(self.folder, model, self.spec.target, self.settings)
        for place, stage in enumerate(self.spec.stages):
            self._feed(model, data, place, stage.number).check_lengths()
        if checkpoint is None:
            self._start(model, self._feed(model, data, 0, FIRST_STREAM))
        compiled = self._compile(model, data)
        record = first_record(self.spec, self.folder, self.machine, model, data[0], models, compiled)
        self.folder.write_record(**record)
        for place, stage in enumerate(self.spec.stages):
            if checkpoint is None or stage.number >= checkpoint.stage:
                feed = self._feed(model, data, place, stage.number)
                self._train_stage(stage, model, feed, checkpoint, begun, compiled)
                checkpoint = None
        if checkpoint is not None:  # of a stage that the run no longer has
            load_weights(model, checkpoint)
        return model, data

    # Before training

    def _open_data(self) -> list[TrainingData]:
        data = open_stage_data(self.settings, self.spec.stages, self.spec.source_data)
        data[0].caches.say = self.reporter.message
        return data

    def _checkpoint(self, begun: dict[str, Any]) -> Checkpoint | None:
        """The checkpoint to resume from, None to start at the first step.

        Raises:
            ConfigError: settings, data or models have changed since the run started, and the change is not accepted.
            ModelError: every checkpoint is damaged.
        """
        checkpoint = None
        if self.settings.resume:
            checkpoint = newest_checkpoint(self.folder.checkpoints, self.reporter.warning)
            note_changes(self.folder, checkpoint, begun, self.settings, self.reporter.warning)
        if checkpoint is None:
            self.folder.cut_metrics(0)  # a resumed run without a checkpoint starts again
        return checkpoint

    def _load_vpg(self) -> VPG:
        source = vpg_source(self.spec.source, self.settings, self.spec.registry)
        return load_vpg(source, self.machine, lazily=wants_cache(self.settings))

    def _load_llm(self) -> LLM:
        llm = load_llm(self.spec.target, self.machine, self.settings)
        if self.settings.checkpoint_activations:
            llm.checkpoint_activations()
        return llm

    def _start(self, model: VLModel, feed: Feed) -> None:
        """Initialise the projector, alike in every process."""
        model.train_only(("projector",))
        probe = StartProbe(model, feed, self._stepper(model))
        started = start_projector(
            self.settings,
            probe,
            source=lambda: source_words(self.spec.source, self.spec.registry),
            captions=lambda: itertools.islice(training_captions(feed.data), START_CAPTIONS),
        )
        with torch.no_grad():
            for parameter, value in zip((model.projector.weight, model.projector.bias), started.projector, strict=True):
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
    ) -> None:
        """Run one stage, from `checkpoint` if there is one, and record it; `begun` goes into its checkpoints."""
        model.train_only(stage.trains)
        plan = stage_plan(self.settings, stage, feed.steps_per_epoch)
        runner = StageRunner(
            plan,
            model,
            self._stepper(model, feed),
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
            self._resume(runner, feed, checkpoint)
        began = time.monotonic()
        with _compiler_errors_are_told() if compiled else contextlib.nullcontext():
            state = runner.run()
        done = stage_record(stage, state, time.monotonic() - began, self.machine.device) | feed.tell_lengths()
        data = {"data": feed.all.record()}
        stages = {**self.folder.record.get("stages", {}), str(stage.number): done | (data if stage.data else {})}
        self.folder.write_record(stages=stages, **({} if stage.data else data))

    def _resume(self, runner: StageRunner, feed: Feed, checkpoint: Checkpoint) -> None:
        """Resume inside the stage of `checkpoint`, or start the stage after it."""
        if runner.plan.number != checkpoint.stage:
            load_weights(runner.model, checkpoint)
            self.folder.cut_metrics(int(checkpoint.state["metrics_size"]))
            return
        runner.restore(checkpoint)
        if self.settings.micro_positions is None and "micro_positions" in checkpoint.state:
            runner.stepper.micro_positions = checkpoint.state["micro_positions"]  # the same micro-batches as before
        feed.restore(checkpoint.state.get("feed", {}))
        self.reporter.message(f"resuming stage {checkpoint.stage} after step {checkpoint.step}")

    def _changed_by(self, last: Stage) -> set[str]:
        """The parameter groups changed by the end of stage `last`; the projector at least, by its initialisation."""
        return {"projector"}.union(*(stage.trains for stage in self.spec.stages if stage.number <= last.number))

    def _feed(self, model: VLModel, data: Sequence[TrainingData], place: int, stream: int) -> Feed:
        """The batches of the stage at `place` in the list (of the run if it has no stages)."""
        if not self.spec.stages:
            return Feed(data[0], self.settings, model, self.machine, stream, say=self.reporter.warning)
        stage = self.spec.stages[place]
        settings = stage_settings(self.settings, stage)
        return Feed(data[place], settings, model, self.machine, stream, stage.texts, self.reporter.warning)

    def _stepper(self, model: VLModel, feed: Feed | None = None) -> Stepper:
        config = model.llm.model.config.get_text_config()
        positions = self.settings.micro_positions or self.machine.positions_at_once(
            config.num_hidden_layers, config.hidden_size
        )
        keep = feed.keep if feed is not None else None
        return Stepper(model, self.machine.accelerator, positions, self.machine.autocast, keep)

    # After training

    def finish(self, model: VLModel, data: Sequence[TrainingData]) -> None:
        """Check the model's captions, and write the model."""
        model.requires_grad_(False)
        model.eval()
        at_chance = any(stage.get("llm_at_chance") for stage in self.folder.record.get("stages", {}).values())
        examples = self_check(model, self._feed(model, data, -1, FIRST_STREAM), llm_at_chance=at_chance)
        if examples.get("warning"):
            self.reporter.warning(examples["warning"])
        self.folder.write_record(self_check=examples)
        if self.machine.is_main:
            self.reporter.message(f"writing {self.folder.path}")
            write_model(self.folder, model, self.spec.source, self.spec.target, self.settings)
            self.folder.write_record(status=DONE, ended=now())
            self.folder.remove_checkpoints()
        for part in {id(part): part for part in data}.values():
            for line in skipped(part.record()):
                self.reporter.warning(line)
        self.machine.accelerator.wait_for_everyone()
        self._emit("run_end")

    @contextlib.contextmanager
    def _failures_are_recorded(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            fail(self.folder, error)
            self._emit("run_failed", cause=str(error))
            raise
        finally:
            self.folder.close()

    def _emit(self, kind: str, **values: Any) -> None:
        self.spec.registry.emit(RunEvent(kind, str(self.folder.path), values=values))


@contextlib.contextmanager
def _compiler_errors_are_told() -> Iterator[None]:
    try:
        yield
    except TorchDynamoException as error:
        cause = str(error).strip().partition("\n")[0]
        raise VpgtError(f"the LLM cannot be compiled: {cause}", "--no-compile runs it uncompiled") from error


def _brief(record: dict[str, Any]) -> str:
    items: Iterable[str] = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
    return ", ".join(items)
