"""A transfer from beginning to end: names -> plan -> modules -> projector's start -> stages -> model folder."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpgtrans_core import __version__
from vpgtrans_core.cards import RunEvent
from vpgtrans_core.errors import ConfigError, DataError, VpgtError
from vpgtrans_core.models.resolve import (
    ResolvedLLM,
    ResolvedSource,
    check_names,
    needs_code,
    resolve_source,
    resolve_target,
)
from vpgtrans_core.registry import Registry, default_registry
from vpgtrans_core.run.resuming import ended, output_folder, recordable, resumed_settings
from vpgtrans_core.settings import Settings, build, recipe

if TYPE_CHECKING:
    from vpgtrans_core.machine import Machine
    from vpgtrans_core.run.feed import Feed
    from vpgtrans_core.run.folder import RunFolder
    from vpgtrans_core.train.checkpoint import Checkpoint
    from vpgtrans_core.train.stage import Progress, Stage, StageState
    from vpgtrans_core.vlm.model import VLModel
    from vpgtrans_core.vpg.adapter import VPG

START_CAPTIONS = 200_000
"""Training captions whose words pair the two vocabularies: more bring no new words."""


@dataclass(frozen=True)
class TransferResult:
    """What a run leaves: its folder and its record (the contents of run.json)."""

    folder: Path
    record: dict[str, Any]


class Silent:
    """A reporter that says nothing."""

    def stage(self, name: str, total: int) -> None: ...
    def step(self, advance: int = 1, **values: float) -> None: ...
    def message(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...


def transfer(
    settings: Settings | None = None,
    *,
    reporter: Progress | None = None,
    registry: Registry | None = None,
    **values: Any,
) -> TransferResult:
    """Transfer a source's VPG to a target LLM (the whole of the paper's section 4) and write the model folder.

    Args:
        settings: all settings; or give them as keyword arguments: ``transfer(source="opt-2.7b", target="vicuna-7b",
            data=("coco.json",))``.
        reporter: is told of the progress; default silence.
        registry: the plugins; default all that are installed.

    Raises:
        VpgtError: with message and hint, for everything whose cause lies outside of this program.
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint saved.
    """
    settings = build(values) if settings is None else dataclasses.replace(settings, **values)
    reporter = reporter or Silent()
    if settings.resume:
        asked, settings = settings, resumed_settings(settings)
        if settings.resume and (record := ended(settings)) is not None:
            reporter.message(f"the run in {settings.out} has ended: nothing to do")
            return TransferResult(output_folder(settings), record)
        if asked.resume and not settings.resume:
            reporter.message(f"there is nothing to resume in {output_folder(settings)} yet: the run begins")
    return Run(settings, reporter, registry or default_registry()).run()


class Run:
    """One run; `run` reads as the order of things."""

    def __init__(self, settings: Settings, reporter: Progress, registry: Registry) -> None:
        self.registry = registry
        self.reporter = reporter
        self.given = settings
        check_names((self.given.source, self.given.target), registry)
        self.source: ResolvedSource = resolve_source(self.given.source, registry, self.given)
        self.target: ResolvedLLM = resolve_target(self.given.target, registry, self.given)
        self.settings = recipe(
            self.given, miniature=is_miniature(self.source, self.target), batch_size=self.target.family.batch_size
        )
        self.out = output_folder(self.settings)

    def run(self) -> TransferResult:
        from vpgtrans_core.heartbeat import other_processes
        from vpgtrans_core.launching import remarks
        from vpgtrans_core.machine import choose_machine

        if not self.settings.data and not is_miniature(self.source, self.target):
            raise DataError(
                "real models need captioned images", "give them with --data PATH; see the README for formats"
            )
        self.machine: Machine = choose_machine(self.settings, self.target.family.half)
        for remark in remarks(os.environ):
            self.reporter.warning(remark)
        self._check_output()
        self.folder = self._open_folder()
        try:
            with other_processes(self.machine.accelerator, self.out):
                return self._run()
        except BaseException as error:
            from vpgtrans_core.run.folder import fail

            fail(self.folder, error)
            self._emit("run_failed", cause=str(error))
            raise
        finally:
            self.folder.close()

    def _run(self) -> TransferResult:
        from vpgtrans_core.run.finish import check_writable
        from vpgtrans_core.train.checkpoint import newest_checkpoint
        from vpgtrans_core.train.stage import load_weights

        self._emit("run_start")
        self.data = self._open_data()
        self.identity = self._identity_of_run()
        checkpoint = None
        if self.given.resume:
            checkpoint = newest_checkpoint(self.folder.checkpoints, self.reporter.warning)
            self._compare(checkpoint)
        if checkpoint is None:
            self.folder.cut_metrics(0)  # a resumed run that had saved nothing begins again
        self.reporter.message(f"loading {self.source.name} and {self.target.name}")
        vpg = self._load_vpg()
        self.model: VLModel = self._assemble(vpg, begun=checkpoint is not None)
        check_writable(self.folder, self.model, self.target, self.settings)
        self._record_begin()
        stages: dict[str, Any] = dict(self.folder.record.get("stages", {}))
        for number in self.settings.stages or ():
            if checkpoint is not None and number < checkpoint.stage:
                continue
            stage, feed = self._stage(number)
            if checkpoint is not None and number == checkpoint.stage:
                stage.restore(checkpoint)
                if self.settings.micro_positions is None and "micro_positions" in checkpoint.state:
                    stage.stepper.micro_positions = checkpoint.state["micro_positions"]  # batches are cut as before
                feed.restore(checkpoint.state.get("feed", {}))
                self.reporter.message(f"resuming stage {number} after step {checkpoint.step}")
            elif checkpoint is not None:
                load_weights(self.model, checkpoint)
            began = time.monotonic()
            state = self._train(stage)
            checkpoint = None
            stages[str(number)] = self._stage_record(state, feed, time.monotonic() - began)
            self.folder.write_record(stages=stages, data=self._data_record(feed))
        return self._finish()

    def _train(self, stage: Stage) -> StageState:
        if not self.compiled:
            return stage.run()
        from torch._dynamo.exc import TorchDynamoException

        try:
            return stage.run()
        except TorchDynamoException as error:
            cause = str(error).strip().partition("\n")[0]
            raise VpgtError(f"the LLM cannot be compiled: {cause}", "--no-compile runs it as it is") from error

    def _check_output(self) -> None:
        """Refuse now what could not be written at the end.

        Raises:
            ConfigError: the whole model is asked for, and the VPG's family has no folder for it, or the LLM needs code
                of its own.
        """
        from vpgtrans_core.cards import load

        family = self.source.vpg_family
        if self.settings.save == "model" and not load(family.adapter).loading_code:
            raise ConfigError(
                [f"no library loads a whole VL-LLM with a VPG of the family {family.name!r}"], "give --save vpg"
            )
        if self.settings.save == "model" and needs_code(self.target.config):
            raise ConfigError(
                [f"{self.target.name} runs by code in its own folder, which a VL-LLM's folder has no place for"],
                "give --save vpg, which refers to that folder",
            )

    # What the run is made of

    def _open_folder(self) -> RunFolder:
        from vpgtrans_core.run.folder import RunFolder

        main = self.machine.is_main
        if self.settings.resume:
            folder = RunFolder.reopen(self.out, writes=main)
        else:
            begun = {"vpgt": __version__, "settings": self._recordable()}
            folder = RunFolder.create(self.out, overwrite=self.settings.overwrite, writes=main, begun=begun)
        self.machine.accelerator.wait_for_everyone()
        return folder

    def _open_data(self) -> Any:
        from vpgtrans_core.run.feed import open_training_data

        data = open_training_data(self.settings)
        data.caches.say = self.reporter.message
        return data

    def _load_vpg(self) -> VPG:
        from vpgtrans_core.cache.opening import wants_cache
        from vpgtrans_core.vlm.assemble import load_vpg, vpg_source

        source = vpg_source(self.source, self.settings, self.registry)
        return load_vpg(source, self.machine, lazily=wants_cache(self.settings))

    def _assemble(self, vpg: VPG, begun: bool) -> VLModel:
        """LLM, projector and VPG together; the projector's start is computed unless a checkpoint replaces it."""
        import torch

        from vpgtrans_core.vlm.assemble import load_llm, projector_module
        from vpgtrans_core.vlm.model import VLModel

        llm = load_llm(self.target, self.machine, self.settings)
        if self.settings.checkpoint_activations:
            llm.checkpoint_activations()
        device = self.machine.device
        blank = torch.zeros(llm.embedding_size, vpg.output_size), torch.zeros(llm.embedding_size)
        model = VLModel(vpg, projector_module(*blank, device), llm).to(device)
        if not begun:
            self._start(model)
        self._compile(model)
        return model

    def _compile(self, model: VLModel) -> None:
        """Have the LLM compiled where the run gains by it and torch can."""
        from vpgtrans_core.llm.blocks import why_not_compile
        from vpgtrans_core.train.recipe import compiles

        steps_per_epoch = self._feed(model, 1).steps_per_epoch
        self.compiled = compiles(self.settings, self.machine, model.llm, steps_per_epoch)
        if self.compiled and (cause := why_not_compile(self.machine.device)):
            self.compiled = False
            self.reporter.warning(f"the LLM is not compiled, for torch cannot do it here: {cause}")
        if self.compiled:
            self.reporter.message("compiling the LLM; the first steps take longer")
            model.llm.compile()

    def _start(self, model: VLModel) -> None:
        """Give the model the projector that training begins with, the same in every process."""
        import torch
        from accelerate.utils import broadcast

        from vpgtrans_core.run.feed import training_captions
        from vpgtrans_core.start.choose import start_projector
        from vpgtrans_core.start.probe import StartProbe
        from vpgtrans_core.vlm.assemble import source_words

        model.set_stage(1)
        probe = StartProbe(model, self._feed(model, 1), self._stepper(model))
        started = start_projector(
            self.settings,
            model.vpg.output_size,
            model.llm,
            source=lambda: source_words(self.source, self.registry),
            captions=lambda: itertools.islice(training_captions(self.data.train), START_CAPTIONS),
            outputs=probe.outputs,
            said=probe.captions,
            loss=probe.loss,
        )
        with torch.no_grad():
            model.projector.weight.copy_(broadcast(started.projector[0].to(model.device)))
            model.projector.bias.copy_(broadcast(started.projector[1].to(model.device)))
        self.folder.write_record(start=started.record)
        self.reporter.message(f"projector starts from: {_brief(started.record)}")

    def _feed(self, model: VLModel, stage: int) -> Feed:
        from vpgtrans_core.run.feed import Feed

        return Feed(self.data, self.settings, model, self.machine, stage)

    def _stepper(self, model: VLModel, feed: Feed | None = None) -> Any:
        from vpgtrans_core.train.step import Stepper

        config = model.llm.model.config.get_text_config()
        positions = self.settings.micro_positions or self.machine.positions_at_once(
            config.num_hidden_layers, config.hidden_size
        )
        keep = feed.keep if feed is not None else None
        return Stepper(model, self.machine.accelerator, positions, self.machine.autocast, keep)

    def _stage(self, number: int) -> tuple[Stage, Feed]:
        from vpgtrans_core.train.recipe import stage_optimizer, stage_plan
        from vpgtrans_core.train.stage import Stage

        self.model.set_stage(number)
        feed = self._feed(self.model, number)
        plan = stage_plan(self.settings, number, feed.steps_per_epoch)
        stage = Stage(
            plan,
            self.model,
            self._stepper(self.model, feed),
            stage_optimizer(self.settings, number, self.model),
            feed.batches(plan.steps),
            feed.held_out,
            self.folder,
            self.reporter,
            self.registry.emit,
            extra_state=lambda: {"feed": feed.state(), "begun_with": self.identity},
        )
        return stage, feed

    # What the run writes

    def _finish(self) -> TransferResult:
        from vpgtrans_core.run.finish import write_model
        from vpgtrans_core.run.folder import DONE, now
        from vpgtrans_core.run.self_check import self_check
        from vpgtrans_core.run.skipped import skipped

        self.model.requires_grad_(False)
        self.model.eval()
        examples = self_check(self.model, self._feed(self.model, 1))
        if examples.get("warning"):
            self.reporter.warning(examples["warning"])
        self.folder.write_record(self_check=examples)
        if self.machine.is_main:
            self.reporter.message(f"writing {self.out}")
            write_model(self.folder, self.model, self.source, self.target, self.settings)
            self.folder.write_record(status=DONE, ended=now())
            self.folder.remove_checkpoints()
        for line in skipped(self.folder.record["data"]):
            self.reporter.warning(line)
        self.machine.accelerator.wait_for_everyone()
        self._emit("run_end")
        return TransferResult(self.out, self.folder.record)

    def _record_begin(self) -> None:
        from vpgtrans_core.run.folder import RUNNING, environment, now

        record = self.folder.record
        self.folder.write_record(
            vpgt=__version__,
            status=RUNNING,
            started=record.get("started", now()),
            resumed=[*record.get("resumed", []), now()] if self.given.resume else record.get("resumed", []),
            settings=self._recordable(),
            **self.models,
            data=self.data.describe(),
            machine={
                "device": str(self.machine.device),
                "processes": self.machine.accelerator.num_processes,
                "dtype": str(self.machine.dtype),
                "shares_prefix": self.model.llm.shares_prefix,
                "compiled": self.compiled,
            },
            environment=environment(),
            plugins=self.registry.snapshot(),
        )

    @cached_property
    def models(self) -> dict[str, Any]:
        """Who source and target are, with the hashes of their files."""
        from vpgtrans_core.run.finish import identity

        return {"source": identity(self.source), "target": identity(self.target)}

    def _recordable(self) -> dict[str, Any]:
        source, target = self.source, self.target
        return recordable(
            self.settings,
            source=source.folder if source.origin == "folder" else None,
            target=target.folder if target.origin == "folder" else None,
        )

    def _identity_of_run(self) -> dict[str, Any]:
        from vpgtrans_core.run.identity import identity_of

        return identity_of(dataclasses.asdict(self.settings), self.data.describe(), self.models)

    def _compare(self, checkpoint: Checkpoint | None) -> None:
        """Refuse to go on with other data, models or settings than the run was begun with, unless that is accepted."""
        from vpgtrans_core.run.folder import now
        from vpgtrans_core.run.identity import check_same, recorded

        before = (checkpoint.state.get("begun_with") if checkpoint else None) or recorded(self.folder.record)
        accept = self.given.accept_changes
        if changes := check_same(before, self.identity, str(self.out), accept=accept):
            for change in changes:
                self.reporter.warning(f"going on with another {change}")
            earlier = self.folder.record.get("accepted_changes", [])
            self.folder.write_record(accepted_changes=[*earlier, {"at": now(), "changes": changes}])

    def _stage_record(self, state: Any, feed: Feed, seconds: float) -> dict[str, Any]:
        from vpgtrans_core.train.stage import peak_memory_bytes

        return {
            "steps": state.step,
            "images": state.images,
            "captions": state.captions,
            "seconds": round(state.seconds, 2),
            "wall_seconds": round(seconds, 2),
            "bad_steps": state.bad_steps,
            "first_held_out_loss": state.first_held_out_loss,
            "held_out_loss": state.held_out_loss,
            "ended_early": state.stopped,
            "peak_memory_bytes": peak_memory_bytes(self.machine.device),
        }

    def _data_record(self, feed: Feed) -> dict[str, Any]:
        return {**self.data.describe(), "bad": feed.bad_record()}

    def _emit(self, kind: str, **values: Any) -> None:
        self.registry.emit(RunEvent(kind, str(self.out), values=values))


def is_miniature(source: ResolvedSource, target: ResolvedLLM) -> bool:
    """Whether both models ship with vpgt: the small world they know stands in for data, with its own recipe."""
    return source.bundled and target.bundled


def _brief(record: dict[str, Any]) -> str:
    items: Iterable[str] = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
    return ", ".join(items)


__all__ = ["Run", "TransferResult", "VpgtError", "transfer"]
