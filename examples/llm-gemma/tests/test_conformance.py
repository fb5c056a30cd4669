"""Every check comes from vpgt's kit."""

from vpgtrans_core.testing import LLMConformance


class TestGemma(LLMConformance):
    plugin = "llm_gemma"
