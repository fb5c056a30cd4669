"""Checkpoints of the paper's code: every family, a round trip, and files that are refused.

What they compute is held against the paper's in ``test_papers_code.py``.
"""

from __future__ import annotations

import argparse
import json

import pytest
import torch
from tiny import VPG_CONFIG, load_llm, save_llm, shake
from torch import nn
from transformers import AutoTokenizer, Blip2ForConditionalGeneration
from vpg_qformer.adapter import QFormerVPG
from vpg_qformer.lavis import export_lavis, read_lavis, save_imported
from vpg_qformer.lavis_names import POSITIONS, to_lavis

from vpgtrans_core.errors import ModelError, UnsafeInput
from vpgtrans_core.weights import tensor_shapes


def import_lavis(checkpoint, out, *, llm=None, **parts):
    """What `vpgt import` does with files that are at hand."""
    imported = read_lavis(checkpoint, **parts)
    imported.check_llm((llm.model.config.model_type, llm.model.config.hidden_size) if llm else None)
    save_imported(imported, out, llm)
    return imported


def close(found, reference, tolerance=1e-5):
    """Within a tolerance relative to the largest value."""
    error = (found - reference).abs().max() / reference.abs().max()
    assert error < tolerance, f"relative error {error:.1e}"


# --------------------------------------------------------------------------------------------- every family

WIDE = {"opt": {}, "opt, narrow table": {"word_embed_proj_dim": 24}, "llama": {}, "t5": {"tied": False}}
LEAKS = {
    "opt": ["opt_model.lm_head.weight"],
    "llama": ["llama_model.model.layers.0.self_attn.rotary_emb.inv_freq", "llama_model.lm_head.weight"],
    "t5": ["t5_model.encoder.embed_tokens.weight", "t5_model.lm_head.weight"],
}


@pytest.fixture(params=WIDE)
def trained(request, tmp_path):
    """A checkpoint as the paper's trainer saves it, with its ViT's and shapes' files, and the modules in it."""
    kind = request.param.split(",")[0]
    llm_folder = save_llm(tmp_path / "llm", kind, **WIDE[request.param])
    torch.manual_seed(3)
    vpg, projector = QFormerVPG.from_config(VPG_CONFIG), nn.Linear(32, 40)
    shake(vpg)
    with torch.no_grad():
        for name, parameter in vpg.named_parameters():
            if name.endswith("qkv.bias"):
                parameter.view(3, -1)[1] = 0
    vpg.vision_model.post_layernorm.eps = 1e-5
    write_lavis(tmp_path, vpg, projector, kind)
    return kind, load_llm(llm_folder, kind), vpg, projector, tmp_path


def write_lavis(folder, vpg, projector, kind):
    state = {}
    for name, value in vpg.state_dict().items():
        name = to_lavis(name, f"{kind}_proj.")
        if name.endswith("qkv.bias"):
            queries, _, values = value.chunk(3)
            stem = name.removesuffix("qkv.bias")
            state |= {stem + "q_bias": queries.clone(), stem + "v_bias": values.clone()}
        else:
            state[name] = value
    vit = {n.removeprefix("visual_encoder."): v for n, v in state.items() if n.startswith("visual_encoder.")}
    rest = {n: v for n, v in state.items() if not n.startswith("visual_encoder.")}
    rest[POSITIONS] = torch.arange(512).expand(1, -1)
    rest |= {name: torch.randn(3, 5) for name in LEAKS[kind]}
    if projector is not None:
        rest |= {f"{kind}_proj.{n}": v for n, v in projector.state_dict().items()}
    torch.save({"model": rest, "config": {"run": {"lr": 1e-4}}, "epoch": 0, "scaler": None}, folder / "c.pth")
    torch.save(vit, folder / "vit.pth")
    shapes = {"vit": {"num_heads": 2}, "bert": {"num_attention_heads": 4}}
    (folder / "shapes.json").write_text(json.dumps(shapes))


def files(folder):
    return {"checkpoint": folder / "c.pth", "vit": folder / "vit.pth", "shapes": folder / "shapes.json"}


@torch.no_grad()
def test_import_and_export_of_every_family(trained):
    kind, llm, vpg, projector, folder = trained
    found = import_lavis(out=folder / "out", llm=llm, **files(folder))
    assert found.kind == kind and found.dropped["frozen LLM"] == len(LEAKS[kind])
    pixels = torch.randn(2, 3, 28, 28)
    close(QFormerVPG.load(folder / "out")(pixels), vpg(pixels))
    model, report = Blip2ForConditionalGeneration.from_pretrained(folder / "out", output_loading_info=True)
    assert not any(report.values())
    soft = model.get_image_features(pixels, return_dict=True).pooler_output
    close(soft, projector(vpg(pixels)), 1e-4)
    words = torch.tensor([[5, 6, 7], [8, 9, 10]])
    inputs = {"labels": words} if kind == "t5" else {}
    theirs = model.language_model(
        inputs_embeds=torch.cat([soft, model.language_model.get_input_embeddings()(words)], 1), **inputs
    )
    ours = llm.model(inputs_embeds=torch.cat([soft, llm.embed(words)], 1), **inputs)
    close(theirs.logits, ours.logits)
    AutoTokenizer.from_pretrained(folder / "out")

    export_lavis(folder / "out", folder / "again.pth", kind=kind)
    before = torch.load(folder / "c.pth", weights_only=True)["model"]
    after = torch.load(folder / "again.pth", weights_only=True)["model"]
    assert after.keys() == before.keys() - set(LEAKS[kind])
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@torch.no_grad()
def test_a_projector_alone_takes_the_sources_vpg(trained):
    """What stage 1 writes: its Q-Former is the source's, in whatever format that is."""
    kind, llm, *_, folder = trained
    import_lavis(out=folder / "source", llm=llm, **files(folder))
    later = nn.Linear(32, 40)
    state = {f"{kind}_proj.{n}": v for n, v in later.state_dict().items()} | {LEAKS[kind][0]: torch.zeros(1)}
    torch.save({"model": state}, folder / "stage1.pth")
    with pytest.raises(ModelError) as caught:
        read_lavis(folder / "stage1.pth", vit=folder / "vit.pth")
    assert "--vpg" in caught.value.hint
    import_lavis(out=folder / "out", checkpoint=folder / "stage1.pth", vpg=folder / "source", llm=llm)
    pixels = torch.randn(2, 3, 28, 28)
    assert torch.equal(QFormerVPG.load(folder / "out")(pixels), QFormerVPG.load(folder / "source")(pixels))
    assert torch.equal(QFormerVPG.load_projector(folder / "out")[0], later.weight)
    with pytest.raises(ModelError, match="more than a projector"):
        read_lavis(folder / "c.pth", vpg=folder / "source")


@torch.no_grad()
def test_whole_checkpoints_hold_the_vit(trained):
    kind, llm, vpg, _, folder = trained
    import_lavis(out=folder / "out", llm=llm, **files(folder))
    export_lavis(folder / "out", folder / "whole.pth", kind=kind, with_vit=True)
    found = read_lavis(folder / "whole.pth", shapes=folder / "shapes.json")
    pixels = torch.randn(2, 3, 28, 28)
    close(found.vpg(pixels), vpg(pixels))


@torch.no_grad()
def test_pretrained_checkpoints_become_a_vpg_alone(tmp_path):
    """``blip2_pretrained.pth``: no projector, but text branches and heads of the pre-training."""
    vpg = QFormerVPG.from_config(VPG_CONFIG)
    shake(vpg)
    for name, parameter in vpg.named_parameters():
        if name.endswith("qkv.bias"):
            parameter.view(3, -1)[1] = 0
    vpg.vision_model.post_layernorm.eps = 1e-5
    write_lavis(tmp_path, vpg, None, "opt")
    content = torch.load(tmp_path / "c.pth", weights_only=True)
    content["model"] |= {
        "Qformer.bert.embeddings.word_embeddings.weight": torch.randn(10, 32),
        "Qformer.bert.encoder.layer.0.intermediate.dense.weight": torch.randn(64, 32),
        "Qformer.bert.encoder.layer.1.output.LayerNorm.bias": torch.randn(32),
        "Qformer.cls.predictions.bias": torch.randn(10),
        "vision_proj.weight": torch.randn(8, 32),
        "text_proj.bias": torch.randn(8),
        "itm_head.weight": torch.randn(2, 32),
        "temp": torch.tensor(0.07),
    }
    torch.save(content, tmp_path / "c.pth")
    found = import_lavis(out=tmp_path / "out", **files(tmp_path))
    assert found.projector is None and found.dropped["text branch of pre-training"] == 8
    pixels = torch.randn(2, 3, 28, 28)
    close(QFormerVPG.load(tmp_path / "out")(pixels), vpg(pixels))
    assert QFormerVPG.load_projector(tmp_path / "out") is None
    assert not any(name.startswith("language_projection") for name in tensor_shapes(tmp_path / "out"))


def test_the_last_block_of_eva_vit_g_is_left_out(trained):
    """A ViT's own file may have more blocks than are used; the sizes say how many are."""
    *_, folder = trained
    raw = torch.load(folder / "vit.pth", weights_only=True)
    raw |= {n.replace("blocks.1.", "blocks.2."): v for n, v in raw.items() if n.startswith("blocks.1.")}
    raw |= {"norm.weight": torch.ones(24), "head.weight": torch.ones(5, 24)}
    torch.save(raw, folder / "vit.pth")
    shapes = {"vit": {"num_heads": 2, "depth": 2}, "bert": {"num_attention_heads": 4}}
    (folder / "shapes.json").write_text(json.dumps(shapes))
    found = read_lavis(**files(folder))
    assert found.vpg.sizes.vision.num_hidden_layers == 2
    assert found.dropped["unused last block of the ViT"] > 10 and found.dropped["head of the ViT"] == 2


# --------------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def opt(tmp_path):
    llm = load_llm(save_llm(tmp_path / "llm", "opt"), "opt")
    vpg, projector = QFormerVPG.from_config(VPG_CONFIG), nn.Linear(32, 40)
    write_lavis(tmp_path, vpg, projector, "opt")
    return llm, tmp_path


def change(folder, **changes):
    """Change the checkpoint's state dict: None removes."""
    content = torch.load(folder / "c.pth", weights_only=True)
    for name, value in changes.pop("state").items():
        content["model"].pop(name, None)
        if value is not None:
            content["model"][name] = value
    torch.save(content, folder / "c.pth")


def test_everything_that_does_not_fit_is_listed(opt):
    llm, folder = opt
    layer = "Qformer.bert.encoder.layer.1."
    state = {
        layer + "output_query.LayerNorm.bias": None,
        "ln_vision.weight": torch.ones(25),
        "Qformer.bert.encoder.layer.1.surprise": torch.ones(1),
        "something_proj.weight": torch.ones(1),
    }
    change(folder, state=state)
    with pytest.raises(ModelError) as caught:
        import_lavis(out=folder / "out", llm=llm, **files(folder))
    text = str(caught.value)
    assert "missing (1): qformer.encoder.layer.1.output_query.LayerNorm.bias" in text
    assert "unexpected (2): qformer.encoder.layer.1.surprise, something_proj.weight" in text
    assert "vision_model.post_layernorm.weight [25] instead of [24]" in text
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ({"vit": None}, "lack visual_encoder"),
        ({"shapes": None}, "number of attention heads"),
        ({"llm": None}, "give that LLM with --llm"),
    ],
)
def test_what_is_needed_is_said(opt, without, said):
    llm, folder = opt
    with pytest.raises(ModelError, match=said):
        import_lavis(out=folder / "out", **{"llm": llm, **files(folder), **without})


def test_files_in_each_others_place(opt):
    llm, folder = opt
    with pytest.raises(ModelError, match="is a ViT alone"):
        import_lavis(out=folder / "out", llm=llm, **{**files(folder), "checkpoint": folder / "vit.pth"})


def test_the_projectors_llm_must_be_the_one_given(opt, tmp_path):
    llm, folder = opt
    llama = load_llm(save_llm(tmp_path / "llama", "llama"), "llama")  # as wide, and another language
    with pytest.raises(ModelError, match="of kind opt and width 40, but the given one is of type llama"):
        import_lavis(out=folder / "out", llm=llama, **files(folder))
    change(folder, state={"opt_proj.weight": torch.zeros(44, 32), "opt_proj.bias": torch.zeros(44)})
    with pytest.raises(ModelError, match="width 44"):
        import_lavis(out=folder / "out", llm=llm, **files(folder))
    change(folder, state={"opt_proj.bias": None})
    with pytest.raises(ModelError, match=r"missing \(1\): language_projection.bias"):
        import_lavis(out=folder / "out", llm=llm, **files(folder))


def test_a_second_file_must_hold_a_projector(opt):
    llm, folder = opt
    with pytest.raises(ModelError, match="holds no projector"):
        import_lavis(out=folder / "out", llm=llm, projector=folder / "vit.pth", **files(folder))
    change(folder, state={"opt_proj.weight": None, "opt_proj.bias": None})
    with pytest.raises(ModelError, match="nothing ties it to an LLM"):
        import_lavis(out=folder / "out", llm=llm, **files(folder))


def test_nan_weights_are_named(opt):
    llm, folder = opt
    change(folder, state={"query_tokens": torch.full((1, 4, 32), float("nan"))})
    with pytest.raises(ModelError, match="query_tokens"):
        import_lavis(out=folder / "out", llm=llm, **files(folder))


def test_huge_strides_are_refused_before_any_copy(opt):
    llm, folder = opt
    change(folder, state={"query_tokens": torch.zeros(1).expand(1, 1 << 20, 1 << 20)})
    with pytest.raises(UnsafeInput, match="query_tokens"):
        import_lavis(out=folder / "out", llm=llm, **files(folder))


def test_a_config_that_is_a_class_is_named(opt):
    llm, folder = opt
    content = torch.load(folder / "c.pth", weights_only=True)
    torch.save({**content, "config": argparse.Namespace(a=1)}, folder / "c.pth")
    with pytest.raises(UnsafeInput, match=r"argparse\.Namespace"):
        import_lavis(out=folder / "out", llm=llm, **files(folder))


def test_clip_vits_are_refused_by_name(opt):
    llm, folder = opt
    torch.save(
        {"conv1.weight": torch.zeros(1), "transformer.resblocks.0.ln_1.weight": torch.zeros(1)}, folder / "vit.pth"
    )
    with pytest.raises(ModelError, match="CLIP ViT-L"):
        import_lavis(out=folder / "out", llm=llm, **files(folder))


@pytest.mark.parametrize(
    "shapes", ["[]", "{", '{"vit": 3}', '{"vit": {"num_heads": "two"}}', '{"bert": {"hidden_size": -1}}']
)
def test_shapes_files_that_are_none(opt, shapes):
    llm, folder = opt
    (folder / "shapes.json").write_text(shapes)
    with pytest.raises(ModelError, match=r"shapes\.json"):
        import_lavis(out=folder / "out", llm=llm, **files(folder))


def test_shapes_that_contradict_the_tensors(opt):
    llm, folder = opt
    (folder / "shapes.json").write_text(
        json.dumps({"vit": {"num_heads": 2}, "bert": {"num_attention_heads": 4, "num_hidden_layers": 3}})
    )
    with pytest.raises(ModelError, match="unexpected"):
        import_lavis(out=folder / "out", llm=llm, **files(folder))


def test_export_refuses_what_lavis_has_no_place_for(opt):
    llm, folder = opt
    import_lavis(out=folder / "out", llm=llm, **files(folder))
    with pytest.raises(ModelError, match="supports the LLMs opt, t5, llama"):
        export_lavis(folder / "out", folder / "x.pth", kind="gemma")
    vpg = QFormerVPG.load(folder / "out")
    with torch.no_grad():
        vpg.vision_model.encoder.layers[0].self_attn.qkv.bias += 1
    vpg.folder = None
    vpg.save_part(folder / "part", nn.Linear(32, 40), references={})
    with pytest.raises(ModelError, match="keys have a bias"):
        export_lavis(folder / "part", folder / "x.pth", kind="opt", with_vit=True)
    assert not (folder / "x.pth").exists()
