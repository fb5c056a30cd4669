"""`init_vpg`: a VPG of one's own, from settings to its folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpgtrans_core.registry import Registry, default_registry
from vpgtrans_core.run.pipeline import Silent, TransferResult
from vpgtrans_core.run.resuming import ended, output_folder
from vpgtrans_core.settings import Settings
from vpgtrans_core.settings.initial import InitSettings, build_initial

if TYPE_CHECKING:
    from vpgtrans_core.train.stage import Progress


def init_vpg(
    settings: tuple[InitSettings, Settings] | None = None,
    *,
    reporter: Progress | None = None,
    registry: Registry | None = None,
    **values: Any,
) -> TransferResult:
    """Make a VPG and pre-train it on images with captions (BLIP-2's first stage); write its folder.

    Args:
        settings: both kinds of settings; or give them as keyword arguments: ``init_vpg(data=("coco.json",), steps=9)``.
        reporter: receives the progress; default silence.
        registry: the plugins; default all that are installed.

    Raises:
        VpgtError: with message and hint, for every cause outside of this program.
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint saved.
    """
    initial, shared = settings or build_initial(values)
    reporter = reporter or Silent()
    if shared.resume:
        from vpgtrans_core.pretraining.resuming import resumed

        initial, shared = resumed(initial, shared)
        if (record := ended(shared)) is not None:
            reporter.message(f"the run in {shared.out} is finished: nothing to do")
            return TransferResult(output_folder(shared), record)
    from vpgtrans_core.pretraining.run import InitRun
    from vpgtrans_core.pretraining.spec import init_spec

    run = InitRun(init_spec(initial, shared, registry or default_registry()), reporter)
    run.run()
    return TransferResult(run.folder.path, run.folder.record)
