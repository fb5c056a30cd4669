"""`transfer`: resolve the names without torch, then import torch and let `Run` do the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpgtrans_core.registry import Registry, default_registry
from vpgtrans_core.run.resuming import ended, output_folder, resumed_settings
from vpgtrans_core.run.spec import run_spec
from vpgtrans_core.settings import ALIASES, Settings, build, tuning_values

if TYPE_CHECKING:
    from vpgtrans_core.train.stage import Progress


@dataclass(frozen=True)
class TransferResult:
    """The result of a run: its folder and its record (the contents of run.json)."""

    folder: Path
    record: dict[str, Any]


class Silent:
    """A reporter that prints nothing."""

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
        reporter: receives the progress; default silence.
        registry: the plugins; default all that are installed.

    Raises:
        VpgtError: with message and hint, for every cause outside of this program.
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint saved.
    """
    named = {ALIASES.get(name, name) for name in values}
    base = {name: value for name, value in vars(settings).items() if name not in named} if settings else {}
    given = build({**base, **values})
    reporter = reporter or Silent()
    given = _resumed(given, reporter) if given.resume else given
    if given.resume and (record := ended(given)) is not None:
        reporter.message(f"the run in {given.out} is finished: nothing to do")
        return TransferResult(output_folder(given), record)
    spec = run_spec(given, registry or default_registry())
    spec.require_data()
    spec.require_teacher()

    from vpgtrans_core.run.run import Run

    run = Run(spec, reporter)
    run.run()
    return TransferResult(run.folder.path, run.folder.record)


def tune(
    model: str = "", *, reporter: Progress | None = None, registry: Registry | None = None, **values: Any
) -> TransferResult:
    """Tune a whole VL-LLM on conversations: VPG and projector are trained, its LLM stays frozen but for ``lora``.

    Args:
        model: an alias, hub id or folder; an output of `transfer`, or an import.
        values: settings; those of stage 3 by their own names too (``lr`` for ``stage3_lr``).

    Raises:
        VpgtError, Interrupted: as `transfer`.
    """
    return transfer(build(tuning_values({**values, "source": model})), reporter=reporter, registry=registry)


def _resumed(asked: Settings, reporter: Progress) -> Settings:
    settings = resumed_settings(asked)
    if not settings.resume:
        reporter.message(f"there is nothing to resume in {output_folder(settings)} yet: the run starts")
    return settings
