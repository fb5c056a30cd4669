"""The folder that we write, loaded by transformers alone: the same soft prompts and logits, and it generates."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import VOCABULARY, VPG_CONFIG, load_llm, save_llm, shake, tokenizer
from transformers import Blip2ForConditionalGeneration, Blip2Processor
from vpg_qformer.adapter import QFormerVPG
from vpg_qformer.folder import save_blip2

from vpgtrans_core.data.conversation import Caption
from vpgtrans_core.errors import ModelError
from vpgtrans_core.vpg.image_token import with_image_token
from vpgtrans_core.weights import Weights

IMAGE = Image.fromarray(np.random.RandomState(0).randint(0, 255, (40, 30, 3), dtype=np.uint8))
CASES = {
    "opt": ("opt", {}),
    "opt, full vocabulary": ("opt", {"words": VOCABULARY}),
    "opt with a narrow table": ("opt", {"word_embed_proj_dim": 24, "do_layer_norm_before": False}),
    "llama": ("llama", {}),
    "llama, full vocabulary": ("llama", {"words": VOCABULARY}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, BOS after the image": ("llama", {"bos": "after"}),
    "opt, BOS first": ("opt", {"bos": "first"}),
    "t5": ("t5", {"tied": False}),
    "t5, tied": ("t5", {"tie_word_embeddings": True}),
    "t5, full vocabulary": ("t5", {"words": VOCABULARY, "tied": False}),
}


@pytest.fixture(params=CASES, scope="module")
def case(request, tmp_path_factory):
    """A family's LLM, a VPG with a projector, and the folder written of them."""
    kind, changes = CASES[request.param]
    base = tmp_path_factory.mktemp(kind)
    order = {"bos": changes["bos"]} if "bos" in changes else {}
    sizes = {name: value for name, value in changes.items() if name != "bos"}
    llm = load_llm(save_llm(base / "llm", kind, **sizes), kind, **order)
    torch.manual_seed(0)
    vpg, projector = QFormerVPG.from_config(VPG_CONFIG), torch.nn.Linear(32, 40)
    shake(vpg)
    before = {name: value.clone() for name, value in llm.model.state_dict().items()}
    vpg.save_model(base / "out", projector, llm, llm_reference={})
    assert all(torch.equal(value, before[name]) for name, value in llm.model.state_dict().items())
    return kind, llm, vpg, projector, base / "out"


def logits(kind, model, **inputs):
    if kind == "t5":
        inputs["decoder_input_ids"] = torch.tensor([[0, 5, 6]])
    return model(**inputs).logits


@torch.no_grad()
def test_transformers_gives_our_logits(case):
    kind, llm, vpg, projector, folder = case
    model, report = Blip2ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    processor = Blip2Processor.from_pretrained(folder)
    inputs = processor(images=IMAGE, text="w7 w8", return_tensors="pt")
    soft = projector(vpg(inputs["pixel_values"]))
    theirs = model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output
    torch.testing.assert_close(theirs, soft, rtol=1e-5, atol=1e-5)
    image, after = soft, inputs["input_ids"][:, vpg.num_prompts :]
    if llm.family.bos == "first" and kind != "t5":
        before, after = inputs["input_ids"][:, :1], inputs["input_ids"][:, 1 + vpg.num_prompts :]
        assert before.item() == llm.text.start[0]
        image = torch.cat([llm.embed(before), soft], dim=1)
    ours = logits(kind, llm.model, inputs_embeds=torch.cat([image, llm.embed(after)], dim=1))
    torch.testing.assert_close(logits(kind, model, **inputs), ours, rtol=1e-4, atol=1e-4)
    assert ours.shape[-1] == VOCABULARY


@torch.no_grad()
def test_it_generates_with_and_without_a_prompt_and_says_what_we_say(case):
    kind, llm, vpg, projector, folder = case
    model, processor = Blip2ForConditionalGeneration.from_pretrained(folder), Blip2Processor.from_pretrained(folder)
    settings = llm.generation_settings()
    assert model.language_model.generation_config.eos_token_id == settings["eos_token_id"]
    assert model.generation_config.eos_token_id == settings["eos_token_id"]
    inputs = processor(images=[IMAGE, IMAGE], text=["w7 w8", "w9"], padding=True, return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_index).sum() == 2 * vpg.num_prompts
    assert model.generate(**inputs, max_new_tokens=5).shape[0] == 2
    pixels = inputs["pixel_values"][:1]
    from vpgtrans_core.llm.adapter import GenerateOptions

    options = {"num_beams": 2, "max_new_tokens": 6, "min_new_tokens": 2}
    asked = processor(images=IMAGE, text="", return_tensors="pt")
    ids = model.generate(**asked, **options)
    ids = ids if kind == "t5" else ids[:, vpg.num_prompts + 1 :]
    ours = llm.generate(projector(vpg(pixels)), options=GenerateOptions(**options))
    assert llm.decode(ids) == ours
    if kind != "t5" and llm.family.bos == "first":
        with pytest.raises(TypeError):  # alone it would put BOS after the image
            model.generate(pixels, **options)
    else:
        ids = model.generate(pixels, **options)
        assert llm.decode(ids if kind == "t5" else ids[:, vpg.num_prompts + 1 :]) == ours


@torch.no_grad()
def test_transformers_gives_our_loss_of_a_caption(case):
    kind, llm, vpg, projector, folder = case
    if kind == "t5":
        pytest.skip("an encoder-decoder begins no text")
    model, processor = Blip2ForConditionalGeneration.from_pretrained(folder), Blip2Processor.from_pretrained(folder)
    inputs = processor(images=IMAGE, text="w7 w8 w9", return_tensors="pt")
    text = llm.text.encode(Caption("w7 w8 w9"), 32, random.Random(0))
    ids = torch.cat([inputs["input_ids"], torch.tensor([[llm.text.end]])], dim=1)
    labels = ids.clone()
    labels[:, : ids.shape[1] - text.labels] = -100
    theirs = model(inputs["pixel_values"], input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
    soft = projector(vpg(inputs["pixel_values"]))
    ours = llm.loss(soft, llm.layout([[text]], vpg.num_prompts).to("cpu")) / text.labels
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    assert text.labels == (4 if llm.family.bos == "first" else 5)  # the paper's code labels BOS


def test_the_folder_is_plain(case):
    folder = case[-1]
    files = {file.name for file in folder.iterdir()}
    assert {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json"} <= files
    assert not any(name.endswith((".bin", ".pth", ".tmp")) for name in files)
    plain = (folder / "config.json").stat().st_mode & 0o777
    assert all(file.stat().st_mode & 0o777 == plain for file in folder.iterdir())


def make(tmp_path, kind="opt", **changes):
    llm = load_llm(save_llm(tmp_path / "llm", kind, **changes), kind)
    return QFormerVPG.from_config(VPG_CONFIG), llm


def test_a_process_without_our_package_loads_it(tmp_path):
    vpg, llm = make(tmp_path)
    vpg.save_model(tmp_path / "out", torch.nn.Linear(32, 40), llm, llm_reference={})
    script = (
        "import sys\n"
        "for name in ('vpgtrans_core', 'vpg_qformer'):\n    sys.modules[name] = None\n"
        "from transformers import Blip2ForConditionalGeneration, Blip2Processor\n"
        "Blip2ForConditionalGeneration.from_pretrained(sys.argv[1]); Blip2Processor.from_pretrained(sys.argv[1])\n"
    )
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error"}
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], capture_output=True, env=environment)
    assert result.returncode == 0, result.stderr.decode()[-2000:]


def test_half_precision_llm(tmp_path):
    vpg, llm = make(tmp_path)
    llm.model.bfloat16()
    vpg.save_model(tmp_path / "out", torch.nn.Linear(32, 40), llm, llm_reference={})
    weights = Weights(tmp_path / "out")
    dtypes = {name: weights.read(name).dtype for name in weights}
    trained = ("query_tokens", "qformer.", "vision_model.post_layernorm.", "language_projection.")
    assert all(d == (torch.float32 if n.startswith(trained) else torch.bfloat16) for n, d in dtypes.items())
    model = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.language_model.dtype == torch.bfloat16


def test_large_folders_are_sharded(tmp_path, monkeypatch):
    from vpgtrans_core.weights import gate as weights

    monkeypatch.setattr(weights.save_model_tensors, "__kwdefaults__", {"shard_size": 100_000})
    vpg, llm = make(tmp_path)
    vpg.save_model(tmp_path / "out", torch.nn.Linear(32, 40), llm, llm_reference={})
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    _, report = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())


def test_a_quantised_llm_is_written_from_its_own_folder(tmp_path):
    vpg, llm = make(tmp_path)
    whole = {name: value.clone() for name, value in llm.model.state_dict().items()}
    with torch.no_grad():
        for parameter in llm.model.parameters():
            parameter.zero_()  # what a quantised model holds is not what is to be written
    llm.model.is_quantized = True
    save_blip2(tmp_path / "out", vpg, torch.nn.Linear(32, 40), llm, {"folder": str(tmp_path / "llm")})
    name = "model.decoder.layers.0.fc1.weight"
    assert torch.equal(Weights(tmp_path / "out").read("language_model." + name), whole[name])
    with pytest.raises(ModelError, match="does not exist"):
        save_blip2(tmp_path / "out2", vpg, torch.nn.Linear(32, 40), llm, {"folder": str(tmp_path / "gone")})


def test_a_projector_of_another_width_is_refused(tmp_path):
    vpg, llm = make(tmp_path)
    with pytest.raises(ModelError, match="one width"):
        vpg.save_model(tmp_path / "out", torch.nn.Linear(32, 41), llm, llm_reference={})


def test_image_token_prefers_what_is_there_then_spare_rows_then_unused_tokens():
    spare = with_image_token(tokenizer("opt", 50), 61, {2})
    assert (spare.id, spare.grows) == (50, False)
    present = with_image_token(spare.tokenizer, 51, {2})
    assert (present.id, present.grows) == (50, False)

    reserved = tokenizer("llama", 61)
    reserved.add_special_tokens({"additional_special_tokens": ["<reserved>"]})
    found = with_image_token(reserved, 62, {1, 2})
    assert (found.id, found.grows) == (61, False)
    assert found.tokenizer("w5<image>").input_ids == [1, 5, 61] and reserved("w5<reserved>").input_ids == [1, 5, 61]

    unknown = with_image_token(tokenizer("t5", 61), 61, {0, 1})
    assert (unknown.id, unknown.grows) == (2, False)
    assert unknown.tokenizer.unk_token == "<image>"


def test_renamed_tokens_survive_saving(tmp_path):
    found = with_image_token(tokenizer("llama", 61), 61, {1, 2})
    found.tokenizer.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.convert_tokens_to_ids("<image>") == found.id and len(again) == 61
    assert again("<image> w5").input_ids == [1, found.id, 5]


@torch.no_grad()
def test_a_table_without_any_unused_token_grows_by_the_mean_row(tmp_path):
    """GPT-2's way: every row is a word, and no special token is free."""
    from transformers import PreTrainedTokenizerFast

    vpg, llm = make(tmp_path, "llama")
    state = json.loads(tokenizer("llama", 61).backend_tokenizer.to_str())
    state["model"]["unk_token"] = "w9"
    state["added_tokens"] = state["added_tokens"][1:]
    (tmp_path / "t.json").write_text(json.dumps(state))
    llm.tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "t.json"), bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    projector = torch.nn.Linear(32, 40)
    vpg.save_model(tmp_path / "out", projector, llm, llm_reference={})
    assert llm.model.config.vocab_size == 61 and llm.model.get_input_embeddings().weight.shape[0] == 61
    model = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.config.image_token_index == 61 and model.config.text_config.vocab_size == 62
    ids = torch.tensor([[1, 5, 6]])
    theirs, ours = model.language_model(ids).logits, llm.model(ids).logits
    torch.testing.assert_close(theirs[..., :61], ours, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs[..., 61], ours.mean(-1), rtol=1e-4, atol=1e-4)
    assert model.generation_config.suppress_tokens == [61]


def test_names_that_nothing_would_load_are_not_written(tmp_path):
    """An adapter inside the LLM renames its layers."""
    vpg, llm = make(tmp_path, "llama")
    attention = llm.model.model.layers[0].self_attn
    wrapped = torch.nn.Module()
    wrapped.base_layer, wrapped.lora_A = attention.q_proj, torch.nn.Linear(40, 4, bias=False)
    attention.q_proj = wrapped
    with pytest.raises(ModelError, match=r"do not exist in LlamaForCausalLM.*q_proj\.base_layer\.weight"):
        vpg.save_model(tmp_path / "out", torch.nn.Linear(32, 40), llm, llm_reference={})
    assert not list((tmp_path / "out").iterdir())
