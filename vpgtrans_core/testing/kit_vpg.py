"""The kit's own VPG, with which LLM plugins are tried: as a plugin, so that a transfer finds it. Loads no torch."""

from __future__ import annotations

from vpgtrans_core import hookimpl
from vpgtrans_core.cards import API_VERSION, VPGFamily

VPGT_API = API_VERSION
MODEL_TYPE = "vpgt-kit"


@hookimpl
def vpgt_vpg_families() -> list[VPGFamily]:
    return [VPGFamily("kit_vpg", (MODEL_TYPE,), "vpgtrans_core.testing.patch_vpg:PatchVPG")]
