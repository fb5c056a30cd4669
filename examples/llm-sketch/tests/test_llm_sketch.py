"""Every check comes from vpgt's kit."""

from vpgtrans_core.testing import LLMConformance


class TestSketch(LLMConformance):
    plugin = "llm_sketch"
