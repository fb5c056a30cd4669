"""Every check comes from vpgt's kit."""

from vpgtrans_core.testing import LLMConformance


class TestGranite(LLMConformance):
    plugin = "llm_granite"
