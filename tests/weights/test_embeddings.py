"""Word embeddings read by name equal those of the loaded model, and cost no more than themselves."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, Blip2Config

from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.embeddings import EmbeddingReader, open_embeddings

SMALL = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS = {
    **{kind: SMALL for kind in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3")},
    "gpt_neox": SMALL,
    "opt": {**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16},
    "bloom": {**SMALL, "n_head": 2, "n_layer": 2},
    "falcon": {k: v for k, v in SMALL.items() if k != "head_dim"},
    "gpt2": {**SMALL, "n_embd": 16, "n_head": 2, "n_layer": 2, "n_inner": 24},
    "t5": {"vocab_size": 31, "d_model": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1, "d_ff": 24,
           "tie_word_embeddings": False, "decoder_start_token_id": 0},
    "bart": {"vocab_size": 31, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "scale_embedding": True,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8},
}  # fmt: skip
IDS = torch.tensor([5, 0, 30, 7, 7])


def small_model(kind: str):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **KINDS[kind])
    made = (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM).from_config(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_equals_the_loaded_model(kind, tmp_path):
    model = small_model(kind)
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    embeddings = open_embeddings(tmp_path)
    expected = model.get_input_embeddings()(IDS)
    torch.testing.assert_close(embeddings(IDS), expected)
    torch.testing.assert_close(embeddings.table()[IDS], expected)
    assert embeddings.shape == (31, 16) and len(embeddings) == 31


@pytest.mark.parametrize("strip", ["model.", "model.decoder."])
def test_checkpoints_without_the_head_models_prefix(strip, tmp_path):
    model = small_model("opt")
    model.config.save_pretrained(tmp_path)
    state = {k.removeprefix(strip): v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert torch.equal(open_embeddings(tmp_path)(IDS), model.get_input_embeddings().weight[IDS])


def test_an_untied_head_is_never_taken_for_the_embeddings(tmp_path):
    model = small_model("t5")
    model.config.save_pretrained(tmp_path)
    torch.save({"lm_head.weight": torch.zeros(31, 16)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no word embeddings"):
        open_embeddings(tmp_path)


def test_inside_a_blip2_folder(tmp_path):
    model = small_model("llama")
    Blip2Config(text_config=model.config.to_dict()).save_pretrained(tmp_path)
    save_file({"language_model." + k: v for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    assert torch.equal(open_embeddings(tmp_path)(IDS), model.get_input_embeddings().weight[IDS])


class Projected(EmbeddingReader):
    """As a family with a projection behind its table would write it."""

    def extra(self):
        return ("model.decoder.project_in.weight",)

    def vectors(self, rows, extra):
        return rows @ extra["model.decoder.project_in.weight"].T


@torch.no_grad()
def test_a_reader_of_several_tensors(tmp_path):
    KINDS["opt350"] = {**KINDS["opt"], "word_embed_proj_dim": 8}
    config = AutoConfig.for_model("opt", **KINDS.pop("opt350"))
    model = AutoModelForCausalLM.from_config(config).half()
    model.save_pretrained(tmp_path)
    embeddings = open_embeddings(tmp_path, Projected)
    decoder = model.float().get_decoder()
    torch.testing.assert_close(embeddings(IDS), decoder.project_in(decoder.embed_tokens(IDS)))
    assert embeddings.shape == (31, 16) and embeddings.stored.dtype == torch.float16


def test_a_table_of_another_vocabulary_is_refused(tmp_path):
    model = small_model("llama")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 40}))
    with pytest.raises(ModelError, match=r"\[31, 16\] instead of \[40, 16\]"):
        open_embeddings(tmp_path)


def test_embeddings_that_are_not_finite(tmp_path):
    model = small_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 3] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="NaN"):
        open_embeddings(tmp_path)


def test_folders_that_are_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        open_embeddings(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    with pytest.raises(ModelError, match="unheard_of"):
        open_embeddings(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match="cannot build a language model"):
        open_embeddings(tmp_path)


def test_code_in_the_folder_does_not_run(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.M"}})
    )
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError) as caught:
        open_embeddings(tmp_path)
    assert "--trust-remote-code" in caught.value.hint
    assert not (tmp_path / "ran").exists()


def test_scaled_embeddings_of_an_unknown_kind_are_not_guessed(monkeypatch):
    model = small_model("llama")

    class Odd(torch.nn.Embedding):
        pass

    model.set_input_embeddings(Odd(31, 16))
    with pytest.raises(ModelError, match="Odd"):
        EmbeddingReader(model)

    class Knows(EmbeddingReader):
        def vectors(self, rows, extra):
            return 3 * rows

    assert Knows(model).shape == (31, 16)  # a reader that knows what the module does need not be told


def test_a_model_that_does_not_give_its_table_is_told_what_to_give():
    model = small_model("llama")
    model.get_input_embeddings = lambda: torch.nn.Identity()
    with pytest.raises(ModelError, match=r"get_input_embeddings\(\) gives Identity"):
        EmbeddingReader(model)


def test_a_checkpoint_of_other_names_is_told_with_those_it_has(tmp_path):
    small_model("llama").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.my_embedding.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError) as told:
        open_embeddings(tmp_path)
    assert "model.my_embedding.weight" in str(told.value.hint)


PAIR = """
import sys, torch
from vpgtrans_core.llm.embeddings import open_embeddings
torch.set_num_threads(1)
source, target = (open_embeddings(folder) for folder in sys.argv[1:])
ids = torch.arange(0, 32000)
for part in ids.split(4096):  # what a word converter does with words that both share
    source(part), target(part)
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])  # ru_maxrss begins with the parent's
print(peak)
"""


def sparse_checkpoint(folder, kind, **sizes):
    """A checkpoint of real size in two shards, whose bytes are holes in the file: all zeros, and no disk used."""
    folder.mkdir()
    config = AutoConfig.for_model(kind, **sizes)
    config.save_pretrained(folder)
    with torch.device("meta"):
        names = list(AutoModelForCausalLM.from_config(config).state_dict().items())
    half, weight_map = len(names) // 2, {}
    for file, part in (("model-1.safetensors", names[:half]), ("model-2.safetensors", names[half:])):
        header, end = {}, 0
        for name, value in part:
            start, end = end, end + 2 * value.numel()
            header[name] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": [start, end]}
            weight_map[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(file.stat().st_size for file in folder.iterdir())


def test_a_pair_of_seven_billion_stays_below_two_gigabytes(tmp_path):
    opt = sparse_checkpoint(
        tmp_path / "opt", "opt", hidden_size=4096, word_embed_proj_dim=4096, ffn_dim=16384, num_hidden_layers=32,
        num_attention_heads=32, vocab_size=50272,
    )  # fmt: skip
    llama = sparse_checkpoint(
        tmp_path / "llama", "llama", hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, vocab_size=32000,
    )  # fmt: skip
    assert opt > 13e9 and llama > 13e9
    result = subprocess.run(
        [sys.executable, "-c", PAIR, str(tmp_path / "opt"), str(tmp_path / "llama")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) * 1024 < 2e9
