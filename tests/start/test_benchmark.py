"""The converter's benchmark runs and says what it should."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import OPTConfig, OPTForCausalLM

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "converter.py"


@pytest.fixture(scope="module")
def converter():
    spec = importlib.util.spec_from_file_location("converter_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_ridge_beats_sgd_in_work_and_on_held_out_words(converter) -> None:
    scale = converter.SCALES["tiny"]
    data = converter.synthetic(scale, "low rank")
    work, held_out = {}, {}
    for method in ("paper's SGD", "ridge, root of frequency"):
        with FlopCounterMode(display=False) as counter:
            fitted = converter.METHODS[method](data, scale)
        work[method] = counter.get_total_flops()
        held_out[method] = converter.cosine(fitted, data.held, data.source, data.target)
    paper, ridge = work
    assert 0 < work[ridge] < work[paper] / 5
    assert held_out[ridge] > held_out[paper]


def test_a_measurement_has_all_its_columns(converter) -> None:
    row = converter.measure("tiny", "linear", "ridge, root of frequency")
    assert row["seconds"] > 0 and row["held_out"] > 0.5


def test_memory_above_the_tables(converter) -> None:
    """At a tenth of a 7 B LLM's table and more; the bound is that of the real size, two embeddings and 1 GB."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from /proc")
    command = [sys.executable, str(SCRIPT), "--scale", "mid", "--one", "linear", "ridge, root of frequency"]
    row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert row["memory_gb"] < 0.3


def test_each_step_of_the_matching_is_shown(converter, tmp_path, opt_like, llama_like, captions) -> None:
    folders = []
    for name, tokenizer in (("a", opt_like), ("b", llama_like)):
        torch.manual_seed(0)
        config = OPTConfig(
            vocab_size=len(tokenizer), hidden_size=8, word_embed_proj_dim=8, ffn_dim=8, num_hidden_layers=1,
            num_attention_heads=1, max_position_embeddings=16,
        )  # fmt: skip
        OPTForCausalLM(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        folders.append(tmp_path / name)
    rows = converter.matching(*folders, captions)
    assert [r["step"] for r in rows] == ["same", "+ spelling", "+ case", "+ mean"]
    assert [r["pairs"] for r in rows] == sorted(r["pairs"] for r in rows)
    assert rows[-1]["words_covered"] == pytest.approx(1.0)
    assert rows[1]["words_covered"] < 1.0
    assert "+ mean" in converter.table(rows)
