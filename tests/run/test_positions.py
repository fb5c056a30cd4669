"""An LLM whose positions are too few for image and text is refused by the plan and by the run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from vpgtrans_core import transfer
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.planning.plan import plan
from vpgtrans_core.run.positions import check_positions, positions_of
from vpgtrans_core.settings import Settings, build


@pytest.mark.parametrize(
    ("config", "encoder_decoder", "positions"),
    [
        ({"max_position_embeddings": 2048}, False, 2048),
        ({"n_positions": 1024}, False, 1024),
        ({"n_positions": 512}, True, None),  # T5's positions are relative
        ({"max_position_embeddings": 1024}, True, 1024),
        ({"max_position_embeddings": None}, False, None),
        ({}, False, None),
    ],
)
def test_what_a_config_states(config, encoder_decoder, positions):
    assert positions_of(config, encoder_decoder) == positions


def spec(positions: int, max_tokens: int):
    target = SimpleNamespace(
        name="tiny", config={"max_position_embeddings": positions}, family=SimpleNamespace(encoder_decoder=False)
    )
    return SimpleNamespace(target=target, settings=Settings(max_tokens=max_tokens), stages=())


def test_what_fits_passes_and_one_position_less_is_refused():
    check_positions(spec(608, 32), 576)
    with pytest.raises(ConfigError, match=r"tiny has 607 positions; .*576 soft prompts.* 32 tokens need 608") as told:
        check_positions(spec(607, 32), 576)
    assert "--max-tokens 31" in str(told.value.hint)
    with pytest.raises(ConfigError) as told:
        check_positions(spec(512, 32), 576)
    assert "more positions" in str(told.value.hint)


def test_plan_and_run_refuse_it_before_the_llm_is_loaded(world: Path, tmp_path: Path):
    llm = tmp_path / "llm"
    llm.mkdir()
    for file in (world / "llama").iterdir():
        (llm / file.name).write_bytes(file.read_bytes())
    config = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 20}))
    asked = {"source": str(world / "source"), "target": str(llm), "data": [str(world / "data/captions.json")]}
    with pytest.raises(ConfigError, match="has 20 positions"):
        plan(build(asked), downloads=False)
    with pytest.raises(ConfigError, match="has 20 positions"):
        transfer(**asked, out=str(tmp_path / "out"), device="cpu", workers=0)
