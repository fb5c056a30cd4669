"""LoRA in the LLM's attention: trained in a stage, merged into the whole model, or kept beside the VPG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.run import tiny_world
from tests.run.conftest import SMALL
from tests.run.test_tune import TUNE, Stop, vpgt
from vpgtrans_core import transfer, tune
from vpgtrans_core.cli.main import main
from vpgtrans_core.data.conversation import Conversation
from vpgtrans_core.errors import ConfigError, ModelError
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.lora import Lora, attention_layers
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings, build
from vpgtrans_core.train.signals import Interrupted
from vpgtrans_core.vlm.captioning import answer, load_model

peft = pytest.importorskip("peft", reason='LoRA: pip install -e ".[lora]"')

ASKED, PICTURE = Conversation.about_image("a red"), Image.new("RGB", (28, 28), "red")
TALK: dict[str, Any] = {**TUNE, "lora": 2}
SHORT = GenerateOptions(num_beams=1, min_new_tokens=1, max_new_tokens=6)


def said(folder: Path, **settings: Any) -> str:
    model = load_model(str(folder), Settings(device="cpu", **settings), default_registry())
    return answer(model, ASKED, [PICTURE], options=SHORT)


@pytest.fixture(scope="module")
def merged(transferred: Path, talks: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lora") / "merged"
    tune(str(transferred), data=(talks["llava"],), out=str(out), **TALK)
    return out


@pytest.fixture(scope="module")
def apart(transferred: Path, talks: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lora") / "apart"
    tune(str(transferred), data=(talks["llava"],), out=str(out), save="vpg", **TALK)
    return out


def test_the_attention_alone_is_changed_and_merged(transferred: Path, merged: Path) -> None:
    old, new = load_file(transferred / "model.safetensors"), load_file(merged / "model.safetensors")
    assert old.keys() == new.keys()
    changed = {name for name in old if name.startswith("language_model.") and not torch.equal(old[name], new[name])}
    assert changed and all("self_attn" in name and name.endswith("proj.weight") for name in changed)
    assert len(changed) == sum("self_attn" in name and name.endswith("proj.weight") for name in old)
    record = json.loads((merged / "run.json").read_text())
    assert record["stages"]["3"]["trains"] == ["projector", "vpg", "lora"]
    told = record["lora"]
    sizes = [sum(old[name].shape) for name in changed]
    assert told == {"rank": 2, "alpha": 4, "layers": len(changed), "parameters": 2 * sum(sizes), "merged": True}
    assert "LoRA of rank 2 changed the language model's attention" in (merged / "README.md").read_text()


def test_kept_apart_it_says_the_same_and_is_pefts(transferred: Path, merged: Path, apart: Path, tmp_path: Path) -> None:
    """Two runs that differ only in what they write."""
    assert said(apart) == said(merged)
    one, other = load_file(apart / "vpg.safetensors"), load_file(merged / "model.safetensors")
    assert all(torch.equal(value, other[name]) for name, value in one.items() if name in other)
    # PEFT loads it on the LLM, without vpgt
    base = load_model(str(transferred), Settings(device="cpu"), default_registry()).llm.model
    changed = peft.PeftModel.from_pretrained(base, str(apart / "adapter")).merge_and_unload()
    whole = load_model(str(merged), Settings(device="cpu"), default_registry()).llm.model.state_dict()
    for name, value in changed.state_dict().items():
        torch.testing.assert_close(value, whole[name][: len(value)], rtol=1e-5, atol=1e-6)
    # and an export merges it
    vpgt("export", str(apart), "--to", "hf", "--out", str(tmp_path / "whole"))
    exported = load_file(tmp_path / "whole" / "model.safetensors")
    for name, value in load_file(merged / "model.safetensors").items():
        torch.testing.assert_close(exported[name], value, rtol=1e-5, atol=1e-6)


def test_what_would_lose_it_is_refused(apart: Path, talks: dict[str, str], tmp_path: Path, capsys) -> None:
    for arguments in (
        ["export", str(apart), "--to", "vpg", "--out", str(tmp_path / "vpg")],
        ["export", str(apart), "--to", "lavis", "--out", str(tmp_path / "vpg.pth")],
        ["tune", str(apart), "--data", talks["llava"], "--out", str(tmp_path / "again")],
        ["push", str(apart), "me/model", "--dry-run"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        told = capsys.readouterr().err
        assert stopped.value.code == 2 and "keeps a LoRA adapter beside its language model" in told, told
        assert f"vpgt export {apart} --to hf" in " ".join(told.split())


def test_it_resumes_bit_for_bit(merged: Path, transferred: Path, talks: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        tune(str(transferred), data=(talks["llava"],), out=str(tmp_path / "cut"), reporter=Stop(2), **TALK)
    resumed = tune(resume=True, out=str(tmp_path / "cut"))
    one, other = (load_file(folder / "model.safetensors") for folder in (merged, resumed.folder))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("llm", ["llama", "t5"])
def test_a_stage_of_a_transfer_trains_projector_and_adapters(world: Path, llm: str, tmp_path: Path) -> None:
    """With the VPG frozen, its outputs are cached, and the cache changes nothing."""
    stage = {"name": "words", "trains": ["projector", "lora"], "lr": 1e-2, "steps": 3}
    captions = str(world / "data" / "captions.json")
    runs = [
        transfer(
            source=str(world / "source"), target=str(world / llm), data=(captions,), stages=[1, stage], stage1_steps=1,
            batch_size=8, cache=str(tmp_path / "cache"), out=str(tmp_path / str(cached)),
            **{**SMALL, "cache_features": cached},
        )
        for cached in (False, True)
    ]  # fmt: skip
    kinds = {path.name.split("-")[0] for path in (tmp_path / "cache").rglob("*") if path.is_dir()}
    assert not any("features" in kind for kind in kinds)
    one, other = (load_file(run.folder / "model.safetensors") for run in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert runs[0].record["lora"]["rank"] == 8
    own = load_file(world / llm / "model.safetensors")
    assert any(not torch.equal(value, one[f"language_model.{name}"]) for name, value in own.items()
               if one[f"language_model.{name}"].shape == value.shape)  # fmt: skip


def test_adapters_add_nothing_at_first_and_are_the_same_for_a_seed(world: Path) -> None:
    from tests.llm.conftest import family
    from vpgtrans_core.llm.decoder import DecoderOnlyLLM

    ids = torch.tensor([[3, 4, 5]])
    logits, weights = [], []
    for seed in (None, 0, 0, 1):
        torch.manual_seed(9)
        llm = DecoderOnlyLLM(
            AutoModelForCausalLM.from_pretrained(world / "llama"), tiny_world.tokenizer("llama"), family()
        )
        if seed is not None:
            weights.append(next(Lora(llm, 2, seed).parameters()).clone())
        logits.append(llm.model(ids).logits)
        assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(9))  # no other number is drawn
    assert all(torch.equal(one, logits[0]) for one in logits[1:])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_plan_counts_them(transferred: Path, merged: Path, talks: dict[str, str], capsys) -> None:
    arguments = [str(transferred), "--data", talks["llava"], "--template", "plain", "--dry-run", "--json"]
    counts = []
    for flags in ([], ["--lora", "2"]):
        vpgt("tune", *arguments, *flags)
        counts.append(json.loads(capsys.readouterr().out)["stages"][0]["trained"])
    assert counts[1] - counts[0] == json.loads((merged / "run.json").read_text())["lora"]["parameters"]


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"lora": 4}, "no stage trains it"),
        ({"lora": 0, "then": "minigpt4-align"}, "lora: must be above 0"),
        ({"lora": 4, "then": "minigpt4-align", "quantization": "8bit"}, "--save vpg keeps it as an adapter"),
        ({"stages": [{"name": "x", "trains": ["lora"], "lr": 1, "steps": 1, "optimizer": "muon"}]}, "muon is for"),
    ],
)
def test_settings_that_do_not_fit(values: dict[str, Any], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        build(values)


def test_peft_is_asked_for_before_anything_is_loaded(
    transferred: Path,
    talks: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    with pytest.raises(ConfigError, match="LoRA needs PEFT") as error:
        tune(str(transferred), data=(talks["llava"],), out=str(tmp_path / "out"), **TALK)
    assert 'pip install -e ".[lora]"' in error.value.hint


def test_an_adapter_of_another_llm(apart: Path, world: Path) -> None:
    from tests.llm.conftest import family
    from vpgtrans_core.llm.decoder import DecoderOnlyLLM
    from vpgtrans_core.llm.lora import apply_adapter

    other = AutoModelForCausalLM.from_pretrained(world / "llama")
    llm = DecoderOnlyLLM(other, tiny_world.tokenizer("llama"), family())
    with pytest.raises(ModelError, match=r"describes no adapter of the attention|do not fit"):
        apply_adapter(llm, apart / "adapter")


def test_every_attention_layer_is_found() -> None:
    from vpgtrans_core.llm.empty import config_of, empty_model

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    found = {}
    for kind, more in {
        "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40},
        "gpt_neox": small | {"intermediate_size": 32},
        "phi3": small | {"intermediate_size": 32, "pad_token_id": 0},
        "gemma2": small | {"intermediate_size": 32, "head_dim": 8, "num_key_value_heads": 1},
    }.items():
        found[kind] = [
            name.rpartition(".")[2] for name in attention_layers(empty_model(config_of({"model_type": kind} | more)))
        ]
    assert found == {
        "gpt2": ["c_attn", "c_proj"],
        "gpt_neox": ["query_key_value", "dense"],
        "phi3": ["o_proj", "qkv_proj"],
        "gemma2": ["q_proj", "k_proj", "v_proj", "o_proj"],
    }


def test_loss_and_gradients_of_adapters_are_transformers_own(world: Path) -> None:
    """Of the same model with the same adapters in it, called as a whole."""
    from tests.llm.conftest import family
    from vpgtrans_core.llm.decoder import DecoderOnlyLLM
    from vpgtrans_core.llm.text import Text

    model = AutoModelForCausalLM.from_pretrained(world / "llama").double()
    llm = DecoderOnlyLLM(model, tiny_world.tokenizer("llama"), family())
    lora = Lora(llm, 2)
    torch.manual_seed(1)
    for parameter in lora.parameters():
        parameter.data = torch.randn_like(parameter, dtype=torch.float64) * 0.1
        parameter.requires_grad_()
    soft = torch.randn(1, 3, llm.embedding_size, dtype=torch.float64)
    ids = (5, 6, 7, 8)
    llm.loss(soft, llm.layout([[Text.of(ids[:2], ids[2:])]], 3)).backward()
    ours = [parameter.grad.clone() for parameter in lora.parameters()]
    lora.zero_grad()
    inputs = torch.cat([soft, model.get_input_embeddings()(torch.tensor([ids]))], dim=1)
    logits = model(inputs_embeds=inputs, use_cache=False).logits[0, 4:6]  # transformers' own loss would be in fp32
    torch.nn.functional.cross_entropy(logits, torch.tensor(ids[2:]), reduction="sum").backward()
    for mine, parameter in zip(ours, lora.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-8, atol=1e-10)
    assert any(gradient.abs().sum() > 0 for gradient in ours)
