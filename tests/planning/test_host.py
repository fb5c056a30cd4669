"""The host's memory while an LLM is loaded: what the plan says, beside what processes really take."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vpgtrans_core.planning.cost.host import BASE, HostMemory, file_bytes, host_memory
from vpgtrans_core.planning.cost.shapes import llm_shape
from vpgtrans_core.settings import Settings

CONFIG = LlamaConfig(
    vocab_size=512, hidden_size=768, intermediate_size=3072, num_hidden_layers=6, num_attention_heads=8,
    num_key_value_heads=8,
)  # fmt: skip
ADAPTER = "vpgtrans_core.llm.decoder:DecoderOnlyLLM"

LOADER = """
import json, os, sys
import torch
torch.set_num_threads(1)
import transformers.models.llama.modeling_llama
from transformers import AutoModelForCausalLM
from vpgtrans_core.llm.loading import load_model

def values(path):
    lines = (line.split() for line in open(path) if line.rstrip().endswith("kB"))
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}

def memory():
    return values("/proc/self/status") | values("/proc/self/smaps_rollup")

def load(folder, dtype, ready, go, out):
    before = memory()
    open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
    model = load_model(folder, AutoModelForCausalLM, dtype=getattr(torch, dtype), device="cpu")
    os.write(ready, b".")
    os.read(go, 1)  # until all have loaded
    after = memory()
    peak = after["VmHWM"] - before["VmRSS"]
    os.write(out, (json.dumps([peak, after["RssAnon"] - before["RssAnon"], after["Pss_File"]]) + "\\n").encode())
    os.write(ready, b".")
    os.read(go, 1)  # until all have measured: a mapped file is shared by those that are there

def together(folder, dtype, count):
    (was_ready, ready), (go, tell), (results, out) = os.pipe(), os.pipe(), os.pipe()
    for _ in range(count):
        if os.fork() == 0:
            load(folder, dtype, ready, go, out)
            os._exit(0)
    os.close(ready), os.close(out)
    for _ in range(2):
        waiting = count
        while waiting:
            if not (come := os.read(was_ready, waiting)):
                sys.exit("a process has ended")
            waiting -= len(come)
        os.write(tell, b"." * count)
    for _ in range(count):
        os.wait()
    return [json.loads(line) for line in os.fdopen(results)]

load_model(sys.argv[2], AutoModelForCausalLM, dtype=torch.float32, device="cpu")  # what is imported on use
print(json.dumps([together(*case) for case in json.loads(sys.argv[1])]))
"""
SLACK = 32e6
"""Bytes: the loader's threads hold a few tensors more. The LLM's own are 228 MB in float32."""
CASES = [
    ("float32", "bfloat16", 1), ("float32", "bfloat16", 2), ("float32", "bfloat16", 4), ("bfloat16", "float32", 2),
    ("float32", "float32", 4),
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("llms")
    model = LlamaForCausalLM(CONFIG)
    for name in ("float32", "bfloat16"):
        model.to(getattr(torch, name)).save_pretrained(root / name)
    small = LlamaConfig(**{**CONFIG.to_dict(), "hidden_size": 64, "intermediate_size": 64, "head_dim": 8})
    LlamaForCausalLM(small).save_pretrained(root / "small")
    return {name: root / name for name in ("float32", "bfloat16", "small")}


def planned(folder: Path, dtype: str, processes: int) -> HostMemory:
    shape = llm_shape(CONFIG.to_dict(), ADAPTER)
    file = file_bytes(folder, CONFIG.to_dict(), shape.parameters)
    settings = Settings(device="cpu", dtype=dtype)
    return host_memory(shape, settings, file, 4 if dtype == "float32" else 2, processes)


@pytest.mark.slow
def test_the_plan_s_host_memory_is_what_processes_take(folders: dict[str, Path]) -> None:
    """The peak of each process, and the weights of its own in each of 1, 2 and 4; the file once for all of them."""
    cases = [(str(folders[file]), run, count) for file, run, count in CASES]
    done = subprocess.run(
        [sys.executable, "-c", LOADER, json.dumps(cases), folders["small"]],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},  # its threads do not survive a fork
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for (folder, run, count), measured in zip(cases, json.loads(done.stdout), strict=True):
        plan = planned(Path(folder), run, count)
        assert len(measured) == count
        for peak, own, _ in measured:
            assert peak == pytest.approx(plan.own + plan.file, abs=SLACK)
            assert own == pytest.approx(plan.own, rel=0.1, abs=0.1 * plan.file)
        if not plan.own:  # the file stays mapped: its pages are counted once among the processes
            shared = sum(pages for *_, pages in measured)
            assert plan.file < shared < 2 * plan.file + count * BASE / 4


def test_arithmetic_of_a_gpu_s_processes() -> None:
    """Only one tensor at a time lies converted in the host's memory; the file is mapped once."""
    shape = llm_shape(CONFIG.to_dict(), ADAPTER)
    file = 4.0 * shape.parameters
    one, eight = (host_memory(shape, Settings(), file, 2, count) for count in (1, 8))
    assert one.own == eight.own == 2 * 512 * 768
    assert eight.total == 8 * (BASE + one.own) + file
    assert one.one == one.total == eight.one
    assert host_memory(shape, Settings(), file / 2, 2, 1).own == 0


def test_the_bytes_of_a_file(folders: dict[str, Path], tmp_path: Path) -> None:
    sizes = {name: file_bytes(folder, {}, 1) for name, folder in folders.items() if name != "small"}
    assert sizes["float32"] == pytest.approx(2 * sizes["bfloat16"], rel=0.01)
    assert file_bytes(None, {"dtype": "bfloat16"}, 10) == file_bytes(tmp_path, {"torch_dtype": "torch.float16"}, 10)
    assert file_bytes(None, {}, 10) == 40
