"""Our own plugins pass the kit that everybody else's do, in each shape that their models have."""

from vpg_idefics3 import VPGT_CONFORMANCE as idefics3
from vpg_internvl import VPGT_CONFORMANCE as internvl

from vpgtrans_core.testing import LLMConformance, VPGConformance


class TestOPT(LLMConformance):
    plugin = "llm_opt"
    tolerance = 1e-8


class TestOPTWithNormsAfterTheBlocks(LLMConformance):
    plugin = "llm_opt"
    config = {"do_layer_norm_before": False}  # noqa: RUF012
    tolerance = 1e-8


class TestOPTWithNarrowWords(LLMConformance):
    """As OPT-350m: 16-wide words behind a projection to 32, layer norms after the blocks."""

    plugin = "llm_opt"
    config = {"word_embed_proj_dim": 16, "do_layer_norm_before": False}  # noqa: RUF012
    tolerance = 1e-8


class TestT5(LLMConformance):
    plugin = "llm_t5"
    tolerance = 1e-7


class TestFlanT5(LLMConformance):
    """A gated feed-forward layer, a head of its own, and an output that is not scaled."""

    plugin = "llm_t5"
    config = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}  # noqa: RUF012
    tolerance = 1e-7


class TestLlama(LLMConformance):
    plugin = "llm_llama"


class TestLlamaWithGroupedHeads(LLMConformance):
    plugin = "llm_llama"
    config = {"num_key_value_heads": 1, "tie_word_embeddings": True}  # noqa: RUF012


class TestLlama3(LLMConformance):
    """Llama 3's stretched rotary embeddings."""

    plugin = "llm_llama"
    config = {  # noqa: RUF012
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    }


class TestQFormer(VPGConformance):
    plugin = "vpg_qformer"
    family = "qformer"


class TestQFormerBehindAnotherTower(VPGConformance):
    plugin = "vpg_qformer"
    family = "qformer-tower"


class TestLlava(VPGConformance):
    plugin = "vpg_llava"
    family = "llava"


class TestLlavaNext(VPGConformance):
    plugin = "vpg_llava"
    family = "llava-next"


class TestLlavaOnevision(VPGConformance):
    plugin = "vpg_llava"
    family = "llava-onevision"


class TestIdefics3(VPGConformance):
    plugin = "vpg_idefics3"


class TestIdefics3Tiles(VPGConformance):
    plugin = "vpg_idefics3"
    config = {**idefics3["idefics3"]["config"], "tiles": True}  # noqa: RUF012


class TestInternVL(VPGConformance):
    plugin = "vpg_internvl"


class TestInternVLTiles(VPGConformance):
    plugin = "vpg_internvl"
    config = {**internvl["internvl"]["config"], "tiles": True}  # noqa: RUF012
    unsupported = {"card_says_what_vpgt_caption_says": "its processor, which reads videos, too, needs torchvision"}  # noqa: RUF012
