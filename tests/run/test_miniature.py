"""The miniature through the command line, each target then loaded by transformers alone; real pictures too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.warm import vpgt
from vpgtrans_core.miniature.data import items

SHARED = Path(os.environ.get("VPGT_SHARED", Path(__file__).resolve().parents[3] / "shared"))
NLVR = SHARED / "data" / "nlvr"

FOREIGN = """
import sys
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

folder, picture = sys.argv[1:]
processor = Blip2Processor.from_pretrained(folder)
model = Blip2ForConditionalGeneration.from_pretrained(folder)
inputs = processor(images=Image.open(picture), text="", return_tensors="pt")
prompt = 0 if model.config.text_config.is_encoder_decoder else inputs["input_ids"].shape[1]
ids = model.generate(**inputs, max_new_tokens=40)
print("said:", processor.batch_decode(ids, skip_special_tokens=True)[0].strip(), "| tokens:", ids.shape[1])
assert "vpgtrans_core" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["opt-mini-l", "llama-mini", "t5-mini"])
def test_a_transferred_model_captions_in_transformers_alone(tmp_path: Path, target: str) -> None:
    out = tmp_path / "out"
    done = vpgt("transfer", "--from", "opt-mini-s", "--to", target, "--out", str(out), "--limit", "600",
                "--stage1-steps", "10", "--stage2-steps", "15", "--val-images", "40")  # fmt: skip
    assert done.returncode == 0, done.stderr
    picture = tmp_path / "picture.png"
    items("held", 1)[0].image.save(picture)
    foreign = subprocess.run(
        [sys.executable, "-c", FOREIGN, str(out), str(picture)], capture_output=True, text=True, timeout=120
    )
    assert foreign.returncode == 0, foreign.stderr
    said = foreign.stdout.split("said:")[1].split("|")[0].strip()
    assert len(said.split()) >= 4, said
    ours = vpgt("caption", str(out), str(picture))
    assert ours.returncode == 0 and len(ours.stdout.split()) >= 4, ours.stderr
    record = json.loads((out / "run.json").read_text())
    assert record["stages"]["2"]["held_out_loss"] < record["stages"]["1"]["first_held_out_loss"]


@pytest.mark.slow
@pytest.mark.skipif(not NLVR.is_dir(), reason="the NLVR pictures are not here")
@pytest.mark.parametrize("data", ["captions.json", "shards"])
def test_real_pictures_with_sentences_by_people(tmp_path: Path, data: str) -> None:
    done = vpgt("transfer", "--from", "opt-mini-s", "--to", "llama-mini", "--data", str(NLVR / data), "--out",
                str(tmp_path / "out"), "--stage1-steps", "6", "--stage2-steps", "10", "--batch-size", "64",
                "--val-images", "60", "--limit", "500")  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["stages"]["2"]["held_out_loss"] < record["stages"]["1"]["first_held_out_loss"] - 0.5
    source = record["data"]["sources"][0]
    assert source["images"] == 1094 and source["skipped"]["counts"] == {}
    assert source["images_without_caption"] == 0 or data == "captions.json"


def test_a_real_model_without_data_is_told_what_to_give() -> None:
    done = vpgt("transfer", "--from", "opt-mini-s", "--to", "llama-min")
    assert done.returncode == 2 and "did you mean 'llama-mini'" in done.stderr
