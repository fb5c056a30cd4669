"""What a frozen head is given while text is generated."""

from typing import Any

import pytest
import torch
from pieces_parity import FAMILIES

from vpgtrans_core.llm.adapter import GenerateOptions


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@torch.no_grad()
def test_a_head_reads_the_last_positions_in_order(family: Any) -> None:
    """Otherwise torch multiplies each row by itself, on a CPU with a copy of the head's weights each."""
    llm, _ = family.make()
    seen = []
    llm.model.get_output_embeddings().register_forward_pre_hook(lambda _, read: seen.append(read[0]))
    prompts = torch.randn(5, 3, llm.embedding_size, dtype=llm.model.dtype)
    llm.generate(prompts, "", GenerateOptions(num_beams=1, max_new_tokens=3, min_new_tokens=3))
    seen = [hidden for hidden in seen if len(hidden) == len(prompts)]
    assert len(seen) == 3
    assert all(hidden.is_contiguous() for hidden in seen)
