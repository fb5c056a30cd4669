"""Malicious and broken files at the front door: refused with their error in under 5 seconds and 500 MB."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_lavis import write_lavis
from tiny import VPG_CONFIG, blip2, save_llm, tokenizer
from torch import nn
from vpg_qformer.adapter import QFormerVPG

from vpgtrans_core.cli.main import main

COMMAND = """
import resource, sys, time
from vpgtrans_core.cli.main import main
try:
    main(sys.argv[1:])
finally:
    # VmHWM and not ru_maxrss, which begins with the size of the process that forked this one
    print("COST", time.process_time(), int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]))
"""


@pytest.fixture
def refused(capsys):
    """Run `vpgt`: it must say what is wrong and exit with code 2, quickly and without a copy of anything large.

    Time is this process's own: on a busy machine the wall clock tells of others. What importing torch costs is seen by
    `test_a_whole_process_stays_small`.
    """

    def check(*arguments, says):
        began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        said = capsys.readouterr().err
        assert ended.value.code == 2 and "error:" in said and "Traceback" not in said
        assert says in said
        assert time.process_time() - began < 5
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000

    return check


@pytest.fixture
def lavis(tmp_path):
    write_lavis(tmp_path, QFormerVPG.from_config(VPG_CONFIG), nn.Linear(32, 40), "opt")
    save_llm(tmp_path / "llm", "opt")
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    blip2().save_pretrained(tmp_path / "source")
    tokenizer().save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def importing(folder):
    return ("import", folder / "c.pth", "--vit", folder / "vit.pth", "--shapes", folder / "shapes.json", "--llm",
            folder / "llm", "--out", folder / "out")  # fmt: skip


def exporting(folder):
    return "export", folder, "--to", "vpg", "--out", folder.parent / "out"


def test_pickle_with_code(lavis, refused):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {lavis}/ran",)

    torch.save({"model": {"x": Evil()}}, lavis / "c.pth")
    refused(*importing(lavis), says="posix.system")
    assert not (lavis / "ran").exists()


def test_four_terabytes_of_one_number(lavis, refused):
    content = torch.load(lavis / "c.pth", weights_only=True)
    content["model"]["query_tokens"] = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save(content, lavis / "c.pth")
    refused(*importing(lavis), says="query_tokens claims shape")


def test_a_whole_process_stays_small(lavis):
    content = torch.load(lavis / "c.pth", weights_only=True)
    content["model"]["query_tokens"] = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save(content, lavis / "c.pth")
    result = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, importing(lavis))], capture_output=True, text=True
    )
    assert result.returncode == 2 and "query_tokens claims shape" in result.stderr
    seconds, kilobytes = map(float, result.stdout.split("COST")[1].split())
    assert seconds < 15  # torch and transformers are imported in it
    assert kilobytes < 500_000


def test_truncated_zip(lavis, refused):
    data = (lavis / "c.pth").read_bytes()
    (lavis / "c.pth").write_bytes(data[: len(data) // 2])
    refused(*importing(lavis), says="truncated")


def test_code_in_the_llms_pickle(lavis, refused):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {lavis}/ran",)

    (lavis / "llm" / "model.safetensors").unlink()
    torch.save({"x": Evil()}, lavis / "llm" / "pytorch_model.bin")
    refused(*importing(lavis), says="posix.system")
    assert not (lavis / "ran").exists()


def test_safetensors_with_a_lying_header(folder, refused):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes((1 << 40).to_bytes(8, "little") + data[8:])
    refused(*exporting(folder), says="its header claims")


def test_safetensors_cut_short(folder, refused):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(*exporting(folder), says="damaged")


def test_nan_weights(folder, refused):
    tensors = load_file(folder / "model.safetensors")
    tensors["qformer.layernorm.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(*exporting(folder), says="NaN or infinity in (1): qformer.layernorm.weight")


def test_wrong_vocabulary(lavis, refused):
    config = json.loads((lavis / "llm" / "config.json").read_text())
    (lavis / "llm" / "config.json").write_text(json.dumps({**config, "vocab_size": 99}))
    refused(*importing(lavis), says="embed_tokens")


def test_a_tokenizer_of_another_model(lavis, refused):
    tokenizer("opt", 90).save_pretrained(lavis / "llm")
    refused(*importing(lavis), says="the tokenizer knows 90 tokens")


def test_folder_with_code(lavis, refused):
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (lavis / "llm" / "config.json").write_text(json.dumps(config))
    (lavis / "llm" / "evil.py").write_text(f"open({str(lavis / 'ran')!r}, 'w')")
    refused(*importing(lavis), says="--trust-remote-code")
    assert not (lavis / "ran").exists()


def test_an_index_that_leaves_its_folder(folder, refused):
    index = {"weight_map": {"query_tokens": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(*exporting(folder), says="points out of its folder")
