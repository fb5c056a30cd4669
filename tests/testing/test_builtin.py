"""Our own plugins pass the kit that everybody else's do."""

from vpgtrans_core.testing import LLMConformance, VPGConformance


class TestOPT(LLMConformance):
    plugin = "llm_opt"


class TestOPTWithNarrowWords(LLMConformance):
    """As OPT-350m: 16-wide words behind a projection to 32, layer norms after the blocks."""

    plugin = "llm_opt"
    config = {"word_embed_proj_dim": 16, "do_layer_norm_before": False}  # noqa: RUF012


class TestT5(LLMConformance):
    plugin = "llm_t5"


class TestLlama(LLMConformance):
    plugin = "llm_llama"


class TestLlamaWithGroupedHeads(LLMConformance):
    plugin = "llm_llama"
    config = {"num_key_value_heads": 1, "tie_word_embeddings": True}  # noqa: RUF012


class TestQFormer(VPGConformance):
    plugin = "vpg_qformer"
