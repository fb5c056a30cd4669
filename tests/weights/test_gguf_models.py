"""A small LLM in a GGUF file: named as a file, as a folder, and lying in parts inside installed packages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("gguf")

import gguf

from vpgtrans_core.cli.listing import _fields
from vpgtrans_core.files import sha256_file
from vpgtrans_core.models.resolve import resolve_target
from vpgtrans_core.registry import load_registry
from vpgtrans_core.settings import Settings

WORDS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "ab", "cab"]
MERGES = ["a b", "c ab"]
WIDTH, INNER, HEADS = 16, 24, 2
PLUGIN = """
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import LLMCard, LLMFamily

VPGT_API = 1
CARD = LLMCard(
    alias="in-parts", hub_id="nobody/in-parts", parameters=4000, hidden_size=16, layers=1, heads=2,
    intermediate_size=24, vocab_size=32, licence="MIT", end_token=2,
    packaged=tuple(f"weights_part{n}:data/tiny.gguf.part{n}" for n in range(3)),
)

@hookimpl
def vpgt_llm_families():
    adapter = "vpgtrans_core.llm.decoder:DecoderOnlyLLM"
    return [LLMFamily(name="parts", model_types=("parts",), adapter=adapter, cards=(CARD,))]
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VPGT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture
def file(tmp_path):
    """LLaMA with one block, as llama.cpp's converter writes it."""
    path = tmp_path / "one" / "tiny.gguf"
    path.parent.mkdir()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3, *[1] * (len(WORDS) - 3)])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
    inner = {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
    norms = dict.fromkeys(("attn_norm", "ffn_norm"), (WIDTH,))
    shapes = {f"blk.0.{name}": shape for name, shape in (square | inner | norms).items()}
    shapes |= {"token_embd": (len(WORDS), WIDTH), "output_norm": (WIDTH,), "output": (len(WORDS), WIDTH)}
    numbers = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", numbers.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def in_packages(tmp_path, file, monkeypatch):
    """Three packages with a third of the file each; none can be imported."""
    content = file.read_bytes()
    third = len(content) // 3 + 1
    for n in range(3):
        package = tmp_path / "packages" / f"weights_part{n}"
        (package / "data").mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('imported')")
        (package / "data" / f"tiny.gguf.part{n}").write_bytes(content[n * third : (n + 1) * third])
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A registry with a card whose weights lie in three packages."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "weights_in_parts.py").write_text(PLUGIN)
    return load_registry((str(folder / "weights_in_parts.py"),), {"XDG_CONFIG_HOME": str(folder)})


def test_a_file_and_its_folder_become_one_folder_of_safetensors(known, file, cache):
    by_file = resolve_target(str(file), known, Settings())
    by_folder = resolve_target(str(file.parent), known, Settings())
    assert by_file.folder == by_folder.folder == cache / sha256_file(file)[:16]
    assert (by_file.family.name, by_file.vocab_size, by_file.embedding_size) == ("llama", len(WORDS), WIDTH)
    written = AutoModelForCausalLM.from_pretrained(by_file.folder)
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    ids = torch.tensor([[5, 6, 31, 2]])
    assert torch.equal(written(ids).logits, read(ids).logits)
    assert AutoTokenizer.from_pretrained(by_file.folder)("cab").input_ids[-1] == WORDS.index("cab")


def test_parts_in_packages_are_joined_and_are_the_whole_file(known, tmp_path, file, cache, monkeypatch):
    card = known.llm_card("in-parts")
    assert not _fields(card)["installed"]
    in_packages(tmp_path, file, monkeypatch)
    assert _fields(card)["installed"]
    target = resolve_target("in-parts", known, Settings(offline=True))
    assert target.origin == "package" and target.family.name == "parts"
    assert target.folder == cache / sha256_file(file)[:16]
    assert sorted(path.name for path in cache.iterdir()) == [target.folder.name]  # the joined file is gone
    whole = resolve_target(str(file), known, Settings())
    assert whole.folder == target.folder  # what was converted once serves both


def test_a_plan_of_packaged_weights_converts_nothing(known, tmp_path, file, cache, monkeypatch):
    in_packages(tmp_path, file, monkeypatch)
    target = resolve_target("in-parts", known, Settings(offline=True), weights=False)
    assert target.from_card and target.vocab_size == 32 and not cache.exists()


def test_a_missing_part_means_the_hub(known, tmp_path, file, monkeypatch):
    in_packages(tmp_path, file, monkeypatch)
    (tmp_path / "packages/weights_part1/data/tiny.gguf.part1").unlink()
    with pytest.raises(Exception, match="nobody/in-parts"):
        resolve_target("in-parts", known, Settings(offline=True))
