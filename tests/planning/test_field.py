"""The LLMs that people put under a vision module, in the folders that our families write: none is silently wrong."""

from __future__ import annotations

import pytest

from vpgtrans_core.planning.targets import whole_targets
from vpgtrans_core.registry import default_registry

EXACT = (
    *("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma3_text", "phi3", "olmo2", "smollm3", "ministral3"),
    *("gpt_oss", "qwen3_5_text"),
)
MENDED = ("granite", "cohere2")
"""Their logits are multiplied by a factor, which goes into the head; a bare head alone would leave it out."""
REFUSED = ("phi", "gemma2", "t5", "mamba")
"""A bias or a cap on the logits, an encoder, no cache of keys."""


@pytest.mark.parametrize("family", ["llava", "llava-next", "llava-onevision", "idefics3", "internvl"])
def test_each_is_exact_mended_or_refused_with_a_reason(family):
    wanted = dict.fromkeys(EXACT, "exact") | dict.fromkeys(MENDED, "mended") | dict.fromkeys(REFUSED, "refused")
    tried = list(whole_targets(default_registry(), family, list(wanted)))
    assert {target.model_type: target.verdict for target in tried} == wanted
    assert all(bool(target.why) == (target.verdict == "refused") for target in tried)
