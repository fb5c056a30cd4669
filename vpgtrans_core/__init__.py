"""vpgt: transfer a trained visual prompt generator from one language model to another (VPGTrans).

Importing this package loads no torch; names are resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "hookimpl": "vpgtrans_core.hookspecs",
    "VpgtError": "vpgtrans_core.errors",
    "Settings": "vpgtrans_core.settings",
    "transfer": "vpgtrans_core.run.pipeline",
    "tune": "vpgtrans_core.run.pipeline",
    "init_vpg": "vpgtrans_core.pretraining.pipeline",
    "plan": "vpgtrans_core.planning.plan",
    "caption": "vpgtrans_core.vlm.captioning",
}
__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
