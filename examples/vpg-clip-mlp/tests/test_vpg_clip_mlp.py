"""Every check comes from vpgt's kit."""

from vpgtrans_core.testing import VPGConformance


class TestClipMLP(VPGConformance):
    plugin = "vpg_clip_mlp"
