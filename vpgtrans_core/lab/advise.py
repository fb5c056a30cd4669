"""Which source to take for a target LLM: measured on a few hundred captions, before any training.

The criterion is the loss before training: the source's VPG, the projector initialised from words (`--start words`), the
frozen target, on images that the initialisation has not seen. The lower it is, the better the source. Word pairs, the
word converter's cosine and the cost stand beside it and do not count.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ConfigError, VpgtError
from vpgtrans_core.models.resolve import check_names, resolve_source
from vpgtrans_core.registry import Registry
from vpgtrans_core.settings import Settings

START_IMAGES = 1024
"""Images that the projector's initialisation may look at."""


@dataclass(frozen=True)
class Advice:
    """What was measured of one source.

    Attributes:
        loss: before training, on images that the initialisation has not seen; None if the source cannot be used.
        pairs: words that both vocabularies have.
        held_out_cosine: of the word converter, on words that it was not fitted on.
        gpu_hours: of the whole transfer on one A100, for the paper's amount of data or the data given.
        problem: why the source cannot be used.
    """

    source: str
    loss: float | None = None
    pairs: int | None = None
    held_out_cosine: float | None = None
    gpu_hours: float | None = None
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def advise(
    target: str, sources: Sequence[str], registry: Registry, settings: Settings, images: int = 60
) -> list[Advice]:
    """Measure the sources; the best first, those that cannot be used last.

    Args:
        sources: empty for all that are on this machine.
        settings: data and machine.
        images: how many images the loss is measured on; each with all its captions.

    Raises:
        VpgtError: a name is not known, the target cannot be used, or there is no source.
    """
    check_names([target, *sources], registry)
    named = list(dict.fromkeys(sources)) or sources_here(registry, settings)
    if not named:
        raise ConfigError(["no source is on this machine"], "name one with --from; it is downloaded")
    found = [_measured(name, target, registry, settings, images) for name in named]
    if all(one.loss is None for one in found):
        told = "\n".join(f"  - {one.source}: {one.problem}" for one in found)
        raise VpgtError(f"no source can be used for {target}:\n{told}", "`vpgt list-models` lists sources")
    return sorted(found, key=lambda one: float("inf") if one.loss is None else one.loss)


def sources_here(registry: Registry, settings: Settings) -> list[str]:
    """The known sources with an LLM whose files are on this machine."""
    here = []
    for known in registry.sources():
        if known.card.llm is None:
            continue
        try:
            resolve_source(known.card.alias, registry, replace(settings, offline=True))
        except VpgtError:
            continue
        here.append(known.card.alias)
    return here


def _measured(name: str, target: str, registry: Registry, settings: Settings, images: int) -> Advice:
    asked = replace(
        settings, source=name, target=target, val_images=images, limit=settings.limit or START_IMAGES, save="vpg"
    )
    try:
        return _run(asked, registry)
    except VpgtError as error:
        return Advice(name, problem=error.message)


def _run(settings: Settings, registry: Registry) -> Advice:
    """Begin the transfer and stop before its first step."""
    from vpgtrans_core.run.feed import training_captions
    from vpgtrans_core.run.pipeline import Silent
    from vpgtrans_core.run.run import START_CAPTIONS, Run
    from vpgtrans_core.run.spec import run_spec
    from vpgtrans_core.start.choose import judge_words
    from vpgtrans_core.vlm.assemble import source_words

    hours = _hours(settings, registry)
    with tempfile.TemporaryDirectory() as folder:
        untrained = replace(settings, stages=(1,), stage1_steps=0, out=str(Path(folder) / "run"))
        spec = run_spec(untrained, registry)
        spec.require_data()
        run = Run(spec, Silent())
        try:
            model, data = run.train()
        finally:
            run.folder.close()
        captions = list(itertools.islice(training_captions(data[0].train), START_CAPTIONS))
        words = judge_words(source_words(spec.source, registry), model.llm, captions, settings.seed)
        loss = run.folder.record["stages"]["1"]["first_held_out_loss"]
    return Advice(settings.source, loss, sum(words["pairs"].values()), words["held_out_cosine"], hours)


def _hours(settings: Settings, registry: Registry) -> float:
    from vpgtrans_core.planning.cost.assumptions import assumptions_for
    from vpgtrans_core.planning.cost.chips import chip, chips
    from vpgtrans_core.planning.cost.estimate import Estimator
    from vpgtrans_core.planning.plan import plan

    planned = plan(replace(settings, limit=None, val_images=None), registry=registry, downloads=False)
    device = chip("a100", chips(registry.switches.folder))
    assumed = assumptions_for(planned, device, gpus=1, mfu=None, price=None, caption_tokens=None)
    return Estimator(planned, registry, device, assumed).cost().gpu_hours
