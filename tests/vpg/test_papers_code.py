"""Checkpoints of the paper's code against what that code computes: by files that it wrote, and, for every family, by
the same model written out once more (`papers_code`), which is itself held against those files.

Whatever fixture lies in `$VPGT_SHARED/fixtures/lavis` is tried: `opt` and any other family beside it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from papers_code import SIZES, PapersModel, decoder_loss, save_fixture, t5_loss
from PIL import Image
from tiny import load_llm, save_llm, text_config, tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, Blip2ForConditionalGeneration
from vpg_qformer.adapter import QFormerVPG
from vpg_qformer.lavis_names import to_ours

import vpgtrans_core
from vpgtrans_core.cli.main import main
from vpgtrans_core.llm.text import Text
from vpgtrans_core.vlm.assemble import projector_module
from vpgtrans_core.weights import Weights, read_json, tensor_shapes

SHARED = Path(os.environ.get("VPGT_SHARED", Path(__file__).parents[3] / "shared"))
FIXTURES = SHARED / "fixtures" / "lavis"
PAPERS_OWN = sorted(path.parent for path in FIXTURES.glob("*/reference_stage2.pt"))


@dataclass(frozen=True)
class Fixture:
    """A folder of files that the paper's code wrote, or that look as if it had."""

    folder: Path

    @property
    def kind(self) -> str:
        return read_json(self.folder / "llm" / "config.json")["model_type"]

    def checkpoint(self, stage: int) -> Path:
        return self.folder / f"stage{stage}_checkpoint_0.pth"

    def state(self, stage: int) -> dict[str, torch.Tensor]:
        return torch.load(self.checkpoint(stage), weights_only=True)["model"]

    def reference(self, stage: int) -> dict[str, Any]:
        return torch.load(self.folder / f"reference_stage{stage}.pt", weights_only=True)

    def llm(self) -> Any:
        """transformers' own model."""
        auto = AutoModelForSeq2SeqLM if self.kind == "t5" else AutoModelForCausalLM
        return auto.from_pretrained(self.folder / "llm").float().eval()


# What is made here: the LLM's kind, changes of its config, the form of its folder
MADE: dict[str, tuple[str, dict[str, Any], str]] = {
    "made opt": ("opt", {}, "old"),
    "made opt, narrow table": ("opt", {"word_embed_proj_dim": 24}, "old"),
    "made opt, narrow table, norms behind": ("opt", {"word_embed_proj_dim": 24, "do_layer_norm_before": False}, "new"),
    "made llama": ("llama", {}, "old"),
    "made llama, half precision in shards": ("llama", {"num_key_value_heads": 4}, "half"),
    "made t5": ("t5", {"tied": False}, "old"),
    "made t5, its head tied": ("t5", {"tie_word_embeddings": True}, "old"),
    "made t5 in safetensors": ("t5", {"tied": False}, "new"),
}
FORMS = [*(path.name for path in PAPERS_OWN), *MADE]


def make(folder: Path, kind: str, changes: dict[str, Any], form: str) -> Fixture:
    """Write a fixture of another family, with the LLM's folder as transformers of the paper's time wrote it (`old`), as
    today's does (`new`), or in half precision and shards."""
    save_llm(folder / "llm", kind, **changes)
    fixture = Fixture(folder)
    model = fixture.llm()
    if form == "half":
        model.half().save_pretrained(folder / "llm", max_shard_size="20KB")
        (folder / "llm" / "model.safetensors").unlink()
        model = fixture.llm()
    if form == "old":
        state = {name: value.clone() for name, value in model.state_dict().items()}
        if kind == "llama":
            state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(5)
        torch.save(state, folder / "llm" / "pytorch_model.bin")
        (folder / "llm" / "model.safetensors").unlink()
        config = text_config(kind).to_dict() | read_json(folder / "llm" / "config.json")
        config.pop("scale_decoder_outputs", None)
        if kind == "t5":
            config["tie_word_embeddings"] = changes.get("tie_word_embeddings", False)
        (folder / "llm" / "config.json").write_text(json.dumps(config))
        model = fixture.llm()
    if kind == "llama":  # of its time: a buffer of each layer in every state dict
        attention = model.model.layers[0].self_attn
        attention.rotary_emb = torch.nn.Module()
        attention.rotary_emb.register_buffer("inv_freq", torch.ones(5))
    save_fixture(folder, kind, model, ids=range(5, 50), pad=0 if kind == "t5" else 1)
    return fixture


@pytest.fixture(scope="module", params=FORMS)
def fixture(request, tmp_path_factory) -> Fixture:
    if request.param not in MADE:
        return Fixture(FIXTURES / request.param)
    return make(tmp_path_factory.mktemp("made"), *MADE[request.param])


@pytest.fixture(scope="module")
def imported(fixture, tmp_path_factory) -> dict[str, Path]:
    """The folders of all ways in, by the command line: stage 2's file; stage 1's as the projector's file; stage 1's
    alone, with the VPG of a model that there is."""
    base, folder = tmp_path_factory.mktemp("in"), fixture.folder
    files = ("--vit", folder / "eva_vit.pth", "--shapes", folder / "shapes.json")
    llm = ("--llm", folder / "llm")
    vpgt("import", fixture.checkpoint(2), *files, *llm, "--out", base / "2")
    projector = ("--projector", fixture.checkpoint(1))
    vpgt("import", fixture.checkpoint(2), *files, *llm, *projector, "--out", base / "1, two files")
    vpgt("import", fixture.checkpoint(1), "--vpg", base / "2", *llm, "--out", base / "1, with a VPG")
    return {path.name: path for path in base.iterdir()}


WAYS = {"2": 2, "1, two files": 1, "1, with a VPG": 1}
way = pytest.mark.parametrize("way", WAYS)


def vpgt(*arguments: Any) -> None:
    """Run a command in this process; it must end well."""
    try:
        main([str(a) for a in arguments])
    except SystemExit as done:
        assert not done.code, done.code


def close(found: torch.Tensor, reference: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Within a tolerance relative to the largest value."""
    error = float((found.detach() - reference).abs().max() / reference.abs().max())
    assert error < tolerance, f"relative error {error:.1e}"


def same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Each within 3e-5 in the norm: releases of transformers round differently. A bias of keys has no gradient but
    rounding: no softmax sees it."""
    assert found.keys() == expected.keys()
    largest = max(float(g.norm()) for g in expected.values())
    for name, gradient in expected.items():
        length = largest if name.endswith("key.bias") else max(float(gradient.norm()), 1e-3 * largest)
        error = float((found[name] - gradient).norm()) / length
        assert error < 3e-5, f"{name}: {error:.1e}"


def text_of(reference: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: reference[name] for name in ("input_ids", "attention_mask", "labels") if name in reference}


# ------------------------------------------------------------------------------------- the yardstick itself


@pytest.mark.skipif(not PAPERS_OWN, reason="the reference checkpoints are not here")
@pytest.mark.parametrize("folder", PAPERS_OWN, ids=lambda path: path.name)
@pytest.mark.parametrize("stage", [1, 2])
def test_the_model_written_out_here_computes_what_the_papers_code_does(folder, stage):
    own = Fixture(folder)
    reference = own.reference(stage)
    model = PapersModel(own.kind, own.llm(), read_json(folder / "shapes.json")).eval()
    model.visual_encoder.load_state_dict(torch.load(folder / "eva_vit.pth", weights_only=True))
    for part in (2, stage):
        report = model.load_state_dict(own.state(part), strict=False)
        assert not report.unexpected_keys
    model.set_stage(stage)
    result = model(reference["samples"]["image"], **text_of(reference))
    for name, value in result.items():
        close(value.detach(), reference[name])
    result["loss"].backward()
    same_gradients({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, reference["grads"])
    assert model.saved_state().keys() == own.state(stage).keys()


def test_what_is_made_here_leaks_as_the_papers_files_do(fixture):
    leaks = {
        "opt": "opt_model.lm_head.weight",
        "llama": "llama_model.model.layers.0.self_attn.rotary_emb.inv_freq",
        "t5": "t5_model.encoder.embed_tokens.weight",
    }
    for stage in (1, 2):
        assert {leaks[fixture.kind], "Qformer.bert.embeddings.position_ids"} <= fixture.state(stage).keys()
    assert len(fixture.state(1)) < 9


# --------------------------------------------------------------------------------------------- what goes in


@way
def test_an_import_computes_what_the_papers_code_does(fixture, imported, way):
    stage, folder = WAYS[way], imported[way]
    reference = fixture.reference(stage)
    vpg, llm = QFormerVPG.load(folder), load_llm(fixture.folder / "llm", fixture.kind)
    projector = projector_module(*QFormerVPG.load_projector(folder), torch.device("cpu")).requires_grad_()
    if stage == 2:
        for _, parameter in vpg.trained():
            parameter.requires_grad_(True)
    if not half(folder):  # an LLM in half precision has the frozen ViT beside it rounded, too
        close(vpg.features(reference["samples"]["image"]), reference["vit_out"])
    features = reference["vit_out"]
    close(vpg.vision_model.post_layernorm(features), reference["ln_vision_out"])
    output = vpg.prompts(features)
    close(output, reference["qformer_out"])
    soft = projector(output)
    close(soft, reference["soft_prompts"])

    rows = llm.layout(texts_of(reference), vpg.num_prompts)
    loss = llm.loss(soft, rows) / rows.labels
    close(loss, reference["loss"])
    loss.backward()
    found = {f"language_projection.{n}": p.grad for n, p in projector.named_parameters()}
    found |= {n: p.grad for n, p in vpg.named_parameters() if p.grad is not None}
    same_gradients(found, {to_ours(name): gradient for name, gradient in reference["grads"].items()})


def texts_of(reference: dict[str, Any]) -> list[list[Text]]:
    """The reference's texts as our adapters take them."""
    ids, mask, labels = (reference.get(name) for name in ("input_ids", "attention_mask", "labels"))
    read = [tuple(row[: int(seen.sum())].tolist()) for row, seen in zip(ids, mask, strict=True)]
    if labels is None:
        return [[Text.of((), text)] for text in read]
    said = [tuple(row[row != -100].tolist()) for row in labels]
    return [[Text.of(*text)] for text in zip(read, said, strict=True)]


def half(folder: Path) -> bool:
    return read_json(folder / "config.json")["dtype"] == "float16"


@way
@torch.no_grad()
def test_transformers_alone_computes_it_too(fixture, imported, way):
    """Its format has no place for the eps of `ln_vision`, hence the wider tolerance from there on."""
    folder, reference = imported[way], fixture.reference(WAYS[way])
    model, report = Blip2ForConditionalGeneration.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not any(report.values())
    tolerance = 2e-3 if half(folder) else 1e-4
    pixels = reference["samples"]["image"]
    close(model.vision_model(pixels).last_hidden_state, reference["ln_vision_out"], tolerance)
    soft = model.get_image_features(pixels, return_dict=True).pooler_output
    close(soft, reference["soft_prompts"], tolerance)
    speak = t5_loss if fixture.kind == "t5" else decoder_loss
    loss, logits = speak(model.language_model, soft, **text_of(reference))
    close(loss, reference["loss"], tolerance)
    close(logits[..., : reference["logits"].shape[-1]], reference["logits"], 10 * tolerance)
    if fixture.kind == "t5":  # transformers' own forward, with the soft prompts put in by its image token
        ids = torch.full((len(pixels), model.config.num_query_tokens), model.config.image_token_index)
        ids = torch.cat([ids, reference["input_ids"]], dim=1)
        mask = torch.cat([torch.ones(soft.shape[:2], dtype=torch.long), reference["attention_mask"]], dim=1)
        whole = model(pixel_values=pixels, input_ids=ids, attention_mask=mask, labels=reference["labels"])
        close(whole.loss, reference["loss"], tolerance)


def test_nothing_of_the_frozen_llm_is_taken_from_the_checkpoint(fixture, imported):
    """The LLM in the folder is that of its own files, to the bit, projections folded away aside."""
    weights, llm = Weights(imported["2"]), load_llm(fixture.folder / "llm", fixture.kind)
    state = {name: value for name, value in llm.model.state_dict().items() if f"language_model.{name}" in weights}
    assert len(state) > 10
    for name, value in state.items():
        stored = weights.read(f"language_model.{name}")
        assert torch.equal(stored[: len(value)].float(), value.float()), name


# -------------------------------------------------------------------------------------------- what comes out


def test_the_state_dict_survives_the_round_trip(fixture, imported, tmp_path):
    vpgt("export", imported["2"], "--to", "lavis", "--out", tmp_path / "again.pth")
    before = {n: v for n, v in fixture.state(2).items() if not n.startswith(f"{fixture.kind}_model.")}
    after = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    model = PapersModel(fixture.kind, fixture.llm(), read_json(fixture.folder / "shapes.json"))
    assert not model.load_state_dict(after, strict=False).unexpected_keys


def test_export_to_hf_is_the_imported_folder_again(imported, tmp_path):
    vpgt("export", imported["2"], "--to", "hf", "--out", tmp_path / "hf")
    left, right = Weights(imported["2"]), Weights(tmp_path / "hf")
    assert set(left) == set(right) and all(torch.equal(left.read(name), right.read(name)) for name in left)


def test_a_transfer_starts_from_it(fixture, imported, tmp_path):
    other = {"opt": "llama", "llama": "t5", "t5": "opt"}[fixture.kind]
    save_llm(tmp_path / "target", other)
    (tmp_path / "images").mkdir()
    lines = []
    for n in range(10):
        Image.new("RGB", (40, 30), (25 * n, 20, 250 - 25 * n)).save(tmp_path / "images" / f"{n}.png")
        lines.append({"image": f"{n}.png", "caption": f"w{n + 10} w{n + 11} w20", "image_id": n})
    (tmp_path / "images" / "data.json").write_text(json.dumps(lines))
    result = vpgtrans_core.transfer(
        source=str(imported["2"]), target=str(tmp_path / "target"), data=(str(tmp_path / "images" / "data.json"),),
        out=str(tmp_path / "out"), batch_size=4, workers=0, val_images=2, device="cpu", warmup_steps=1,
        stage1_steps=2, stage2_steps=2, augment=False,
    )  # fmt: skip
    before, after = QFormerVPG.load(imported["2"]), QFormerVPG.load(result.folder)
    assert all(
        torch.equal(a, b) for a, b in zip(before.vision_model.encoder.parameters(),
                                          after.vision_model.encoder.parameters(), strict=True)
    )  # fmt: skip
    assert not torch.equal(before.query_tokens, after.query_tokens)
    vpgt("export", result.folder, "--to", "lavis", "--out", tmp_path / "out.pth")
    assert f"{other}_proj.weight" in torch.load(tmp_path / "out.pth", weights_only=True)["model"]


# ------------------------------------------------------------------------------------------------- sizes


def test_at_the_papers_widths_no_shapes_are_needed(tmp_path, capsys):
    """ViT-g's and BERT-base's heads are known by their widths; few blocks and thin MLPs stand for the rest."""
    sizes = {**SIZES, "num_query_token": 32}
    sizes["vit"] = {**SIZES["vit"], "embed_dim": 1408, "num_heads": 16, "depth": 1, "mlp_ratio": 0.5}
    sizes["bert"] = {**SIZES["bert"], "hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 2}
    save_llm(tmp_path / "llm", "llama")
    fixture = Fixture(tmp_path)
    save_fixture(tmp_path, "llama", fixture.llm(), ids=range(5, 50), pad=1, sizes=sizes)
    arguments = ("import", fixture.checkpoint(2), "--vit", tmp_path / "eva_vit.pth", "--llm", tmp_path / "llm")
    vpgt(*arguments, "--out", tmp_path / "out")
    reference = fixture.reference(2)
    vpg = QFormerVPG.load(tmp_path / "out")
    with torch.no_grad():
        close(vpg.features(reference["samples"]["image"]), reference["vit_out"])
        close(vpg.prompts(reference["vit_out"]), reference["qformer_out"])


def test_tokens_and_shapes_of_an_import(fixture, imported):
    """The folder's tables are those of the LLM: no row is added while one is free."""
    rows = tensor_shapes(imported["2"])
    config = read_json(imported["2"] / "config.json")
    vocabulary = read_json(fixture.folder / "llm" / "config.json")["vocab_size"]
    assert config["text_config"]["vocab_size"] == vocabulary
    assert config["image_token_index"] < vocabulary
    assert any(shape[0] == vocabulary for name, shape in rows.items() if name.startswith("language_model."))
    assert len(tokenizer(fixture.kind)) < vocabulary
