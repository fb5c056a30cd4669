"""Sizes from configs on the meta device: every model of the alias tables, every pair, and models nobody listed."""

import json
from itertools import product

import pytest

from vpgtrans_core.cards import load
from vpgtrans_core.errors import ModelError
from vpgtrans_core.models.sizes import card_config
from vpgtrans_core.planning.cost.shapes import llm_shape
from vpgtrans_core.planning.plan import plan
from vpgtrans_core.registry import KnownLLM, default_registry
from vpgtrans_core.settings import Settings

REGISTRY = default_registry()
LLMS = [known for known in REGISTRY.llms() if not known.card.bundled]
SOURCES = [known for known in REGISTRY.sources() if known.card.llm and not known.card.bundled]


@pytest.fixture(scope="module")
def shapes() -> dict:
    return {known.card.alias: llm_shape(card_config(known.card, known.family), known.family.adapter) for known in LLMS}


def test_the_tables_hold_what_the_project_promises() -> None:
    aliases = {known.card.alias for known in LLMS}
    assert {"opt-125m", "opt-66b", "flan-t5-small", "flan-t5-xxl", "llama-7b", "llama-65b", "vicuna-7b-v1.5"} <= aliases
    assert {known.card.llm for known in SOURCES} >= {"opt-2.7b", "opt-6.7b", "flan-t5-xl", "flan-t5-xxl"}


@pytest.mark.parametrize("known", LLMS, ids=lambda known: known.card.alias)
def test_a_card_says_what_its_model_has(known: KnownLLM, shapes: dict) -> None:
    shape = shapes[known.card.alias]
    assert shape.parameters == pytest.approx(known.card.parameters, rel=0.02)
    assert shape.embedding_size == known.card.embedding_size
    assert shape.vocab_size == known.card.vocab_size
    assert shape.layers == known.card.layers
    assert shape.encoder_decoder == known.family.encoder_decoder


def test_shapes_close_for_every_pair(shapes: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """W_t = W_w W_s: the source's projector, then the word converter, give what the target's first block reads."""
    checked = 0
    for adapter in {load(source.family.adapter) for source in SOURCES}:
        _describe_once(adapter, monkeypatch)
    for source, target in product(SOURCES, LLMS):
        vpg = load(source.family.adapter).describe({"model_type": source.family.model_types[0], **source.card.config})
        source_width = shapes[source.card.llm].embedding_size
        target_width = shapes[target.card.alias].embedding_size
        projector = source_width, vpg["output_size"]
        converter = target_width, source_width
        assert converter[1] == projector[0]
        found = plan(
            Settings(source=source.card.alias, target=target.card.alias, start="converter", offline=True),
            registry=REGISTRY,
            downloads=False,
        )
        assert found.converter == converter
        assert found.projector == (converter[0], projector[1]) == (target.card.embedding_size, vpg["output_size"])
        assert found.stages[0].trained == target_width * (vpg["output_size"] + 1)
        checked += 1
    assert checked == len(SOURCES) * len(LLMS) > 100


def _describe_once(adapter: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VPG's sizes do not depend on the target: build it once for all pairs."""
    original, known = adapter.describe, {}

    def describe(config: dict) -> dict:
        key = json.dumps({k: v for k, v in config.items() if k != "text_config"}, sort_keys=True)
        if key not in known:
            known[key] = original(config)
        return known[key]

    monkeypatch.setattr(adapter, "describe", describe)


def test_opt_350m_is_counted_as_it_is_used(shapes: dict) -> None:
    """Its projections are folded into the table and a head of its own."""
    shape = shapes["opt-350m"]
    assert shape.embedding_size == 1024 and shape.head_weights == 50272 * 1024
    assert shape.embedding_weights == 2 * shape.head_weights
    assert shape.loaded - shape.parameters == 50272 * (2 * 1024 - 512) - 2 * 512 * 1024
    assert all(s.loaded == s.parameters for alias, s in shapes.items() if alias != "opt-350m")


def test_matrix_weights_are_those_of_the_blocks(shapes: dict) -> None:
    assert shapes["opt-6.7b"].weights == 32 * 12 * 4096**2
    assert shapes["llama-7b"].weights == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    xl = shapes["flan-t5-xl"]
    attention, inner = 4 * 2048**2, 3 * 2048 * 5120
    assert xl.encoder_weights == 24 * (attention + inner) + 24 * attention // 2  # + keys and values of the decoder
    assert xl.weights == 24 * (attention + attention // 2 + inner)


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "bloom", "falcon", "gemma2", "qwen3", "phi3", "mistral"])
def test_models_without_a_plugin(model_type: str) -> None:
    shape = llm_shape({"model_type": model_type}, "vpgtrans_core.llm.any_causal:AnyCausalLM")
    assert 0 < shape.weights < shape.parameters
    assert shape.encoder_weights == 0


@pytest.mark.parametrize(
    "config", [{"model_type": "no-such-model"}, {}, {"model_type": "opt", "hidden_size": 7, "num_attention_heads": 2}]
)
def test_configs_of_no_model(config: dict) -> None:
    with pytest.raises(ModelError):
        llm_shape(config, "vpgtrans_core.llm.decoder:DecoderOnlyLLM")
