"""A pre-training from start to end: data, vocabulary, VPG, steps, finished folder."""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch

from vpgtrans_core import __version__
from vpgtrans_core.cards import RunEvent
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.files import writing
from vpgtrans_core.loggers import add_loggers, check_loggers
from vpgtrans_core.machine import choose_machine
from vpgtrans_core.pretraining.card import found_text, write_initial_card
from vpgtrans_core.pretraining.feed import PairFeed
from vpgtrans_core.pretraining.resuming import begun_with, recordable_initial, resume, vision_identity
from vpgtrans_core.pretraining.spec import NAME, InitSpec, with_data
from vpgtrans_core.pretraining.step import PairStepper
from vpgtrans_core.pretraining.words import Words
from vpgtrans_core.processes.shared import told_once
from vpgtrans_core.run.card import CURVE
from vpgtrans_core.run.curve import draw_curve
from vpgtrans_core.run.feed import TrainingData, open_training_data, training_captions
from vpgtrans_core.run.folder import DONE, RUNNING, RunFolder, environment, now, open_folder, recording_failures
from vpgtrans_core.run.inputs import data_of, refuse_inside
from vpgtrans_core.run.record import stage_record
from vpgtrans_core.run.resuming import output_folder, recordable
from vpgtrans_core.run.skipped import skipped
from vpgtrans_core.train import optim
from vpgtrans_core.train.recipe import stage_plan
from vpgtrans_core.train.stage import Progress, StageRunner
from vpgtrans_core.vpg.adapter import VPG
from vpgtrans_core.vpg.pretraining import Pretraining
from vpgtrans_core.weights import read_tensors, save_tensors, tensor_shapes

WORDS_FROM = 200_000
"""Training captions that the vocabulary is made of; more add few words."""


class InitRun:
    """One pre-training on this machine, in its folder.

    Raises:
        ConfigError: the output folder cannot be used, or several processes were started.
    """

    def __init__(self, spec: InitSpec, reporter: Progress) -> None:
        self.spec = spec
        self.reporter = reporter
        self.machine = choose_machine(spec.settings, "bfloat16")
        if self.machine.accelerator.num_processes > 1:
            problem = "a VPG is pre-trained by one process, because each image is told from all others of its step"
            raise told_once(ConfigError([problem], "start it without a launcher"))
        check_loggers(spec.settings.log)
        out = output_folder(spec.settings)
        if not spec.settings.resume:
            refuse_inside(out, [*data_of(spec.settings), ("vision", spec.vision.folder if spec.vision else None)])
        self.folder: RunFolder = open_folder(out, spec.settings, self.machine, self._begun())
        add_loggers(spec.settings.log, self.folder.path, spec.registry)

    def run(self) -> None:
        """Train, and write the finished VPG; a failure is recorded and raised."""
        with recording_failures(self.folder, self._emit):
            self._emit("run_start")
            data = open_training_data(self.spec.settings)
            data.caches.say = self.reporter.message
            words = Words.of(itertools.islice(training_captions(data.train), WORDS_FROM), self.spec.initial.vocabulary)
            model = self._make(words)
            self.spec = with_data(self.spec, data.train, model.vpg.output_size)
            feed = PairFeed(data, self.spec.settings, model, words, self.machine)
            self._train(model, feed, words)
            self._finish(model, feed)

    def _make(self, words: Words) -> Pretraining:
        """The VPG with fresh weights, and a given vision tower's."""
        spec = self.spec
        torch.manual_seed(spec.settings.seed)
        longest = spec.settings.max_tokens + 1
        model: Pretraining = spec.pretraining(spec.config, len(words), longest, trains_vision=spec.vision is None)
        if spec.vision is not None:
            assert spec.vision.folder is not None
            self.reporter.message(f"loading the vision tower of {spec.initial.vision}")
            model.read_vision(spec.vision.folder)
        return model.to(self.machine.device)

    def _train(self, model: Pretraining, feed: PairFeed, words: Words) -> None:
        spec, settings, stage = self.spec, self.spec.settings, self.spec.stage
        assert stage is not None
        vision = vision_identity(spec)
        begun = begun_with(spec, feed.all, vision, words.fingerprint())
        self._record_start(model, feed.all, vision, words)
        model.train_only()
        stepper = PairStepper(
            model,
            self.machine.accelerator,
            feed.frozen,
            writes=spec.initial.text_loss,
            half=self.machine.autocast,
        )
        plan = stage_plan(settings, stage, feed.steps_per_epoch, feed.held_out_steps)
        runner = StageRunner(
            plan,
            model,
            stepper,
            optim.adamw(model.trained().items(), stage.lr, settings.weight_decay),
            feed.batches(plan.steps),
            feed.held_out,
            self.folder,
            self.reporter,
            stage.trains,
            spec.registry.emit,
            extra_state=lambda: {"feed": feed.state(), "begun_with": begun},
            validated=lambda step, loss: self._tell_found(stepper.found(feed.held_out()), step),
        )
        resume(runner, feed, self.folder, spec, begun, self.reporter)
        began = time.monotonic()
        state = runner.run()
        found = stepper.found(feed.held_out())
        record = stage_record(stage, state, time.monotonic() - began, self.machine.device)
        self.folder.write_record(stages={str(stage.number): record}, data=feed.all.record(), found=found)

    def _tell_found(self, found: dict[str, float], step: int) -> None:
        """Tell how often the right caption and the right image are found."""
        if found:
            self.folder.add_metrics(stage=1, step=step, **found)
            self.reporter.message(f"found: {found_text(found)}")

    def _finish(self, model: Pretraining, feed: PairFeed) -> None:
        """Write the VPG's folder; it appears only when it is complete."""
        settings = self.spec.settings
        vpg = model.finished()
        bytes_ = 4 * sum(p.numel() for p in vpg.parameters())
        with writing("the finished VPG", self.folder.path, bytes_, run=self.folder.path):
            staging = self.folder.staging()
            vpg.save_part(staging, None, references={})
            _in_precision(staging, getattr(torch, self.spec.initial.save_dtype))
            title = f"{self.folder.path.name}, {NAME}"
            draw_curve(self.folder.metrics(), staging / CURVE, title, {1: NAME}, unit="nats an image")
            self.reporter.message(f"writing {self.folder.path}")
            write_initial_card(staging / "README.md", self.folder.path.name, self.folder.record)
            self.folder.publish(staging)
        self.folder.write_record(status=DONE, ended=now(), settings=recordable(settings))
        self.folder.remove_checkpoints()
        for line in skipped(feed.all.record()):
            self.reporter.warning(line)
        self._emit("run_end")

    def _begun(self) -> dict[str, Any]:
        """The record before anything is loaded: enough to resume the run."""
        return {
            "vpgt": __version__,
            "settings": recordable(self.spec.settings),
            "initial": recordable_initial(self.spec.initial),
            "config": self.spec.config,
        }

    def _record_start(self, model: Pretraining, data: TrainingData, vision: dict[str, Any], words: Words) -> None:
        """The record before the first step; it keeps what an earlier part of the run recorded."""
        machine, record = self.machine, self.folder.record
        resumed = [*record.get("resumed", []), now()] if self.spec.settings.resume else []
        self.folder.write_record(
            **self._begun(),
            status=RUNNING,
            started=record.get("started", now()),
            resumed=resumed,
            vision=vision,
            vpg=self._facts(model),
            text_side={"parameters": _text_side(model), "words": len(words), "sha256": words.fingerprint()},
            data=data.record(),
            machine={"device": str(machine.device), "processes": 1, "dtype": str(machine.dtype)},
            environment=environment(),
            plugins=self.spec.registry.snapshot(),
        )

    def _facts(self, model: Pretraining) -> dict[str, Any]:
        facts = type(model.vpg).describe(self.spec.config)
        return {**facts, "feature_shape": list(facts["feature_shape"])}

    def _emit(self, kind: str, **values: Any) -> None:
        self.spec.registry.emit(RunEvent(kind, str(self.folder.path), None, None, values))


def _text_side(model: Pretraining) -> int:
    """Parameters that are dropped in the end."""
    kept: VPG = model.finished()
    return sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in kept.parameters())


def _in_precision(folder: Any, dtype: torch.dtype) -> None:
    """Write the floating point tensors of a folder's one file in another precision."""
    if dtype == torch.float32:
        return
    tensors = read_tensors(folder, tensor_shapes(folder))
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    save_tensors(next(folder.glob("*.safetensors")), cast)
