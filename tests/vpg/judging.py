"""What the tests of whole folders have in common: tiny LLMs as targets, runs of two steps, transformers alone, in a new
process, as the judge of the folders that the runs wrote, and odd pictures for the processors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image

from vpgtrans_core import Settings, transfer
from vpgtrans_core.data.conversation import Caption
from vpgtrans_core.data.images import pixels
from vpgtrans_core.data.tiles import stacked
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.registry import default_registry
from vpgtrans_core.vlm.captioning import caption, load_model

TARGETS = {
    "llama": ("llama", {"hidden_size": 24, "num_attention_heads": 2}),  # narrower than the source
    "qwen2": ("qwen2", {"hidden_size": 48, "tie_word_embeddings": True}),  # wider
    "smollm": ("llama", {"hidden_size": 40, "tie_word_embeddings": True, "num_key_value_heads": 1}),
}
TEXT = "a red square"
JUDGE = """
import json, sys, torch
from PIL import Image
import transformers
kind, text, pictures, folders = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4:]
results = [{} for _ in pictures]
for folder in folders:
    own = json.load(open(folder + "/processor_config.json"))["processor_class"]
    if own in ("LlavaOnevisionProcessor", "InternVLProcessor"):
        from tests.vpg.without_videos import PROCESSORS
        processor = PROCESSORS[own](folder)
    else:
        processor = transformers.AutoProcessor.from_pretrained(folder)
    model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32)
    messages = [dict(role="user", content=[dict(type="image")])]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    for result, picture in zip(results, map(Image.open, pictures)):
        one = processor(images=picture, text=prompt, add_special_tokens=False, return_tensors="pt")
        own = one["input_ids"].shape[1]
        said = model.generate(**one, num_beams=1, max_new_tokens=6, min_new_tokens=3, do_sample=False)
        said = processor.batch_decode(said[:, own:], skip_special_tokens=True)[0].strip().split("\\n")[0].strip()
        both = processor(images=picture, text=prompt + text, add_special_tokens=False, return_tensors="pt")
        ids = torch.cat([both["input_ids"], torch.tensor([[model.generation_config.eos_token_id[0]]])], 1)
        labels = ids.clone()
        ends = [processor.tokenizer.get_vocab().get(name) for name in ("</img>", "<fake_token_around_image>")]
        around = [model.config.image_token_id, *(i for i in ends if i is not None)]
        image = torch.isin(ids[0], torch.tensor(around)).nonzero()[-1] + 1  # a BOS behind the image is a label, too
        labels[0, :image] = -100
        seen = {name: value for name, value in both.items() if name not in ("input_ids", "attention_mask")}
        loss = model(input_ids=ids, labels=labels, **seen).loss
        result[folder] = dict(loss=float(loss), said=said, start=one["input_ids"][0].tolist())
print(json.dumps({"torchvision": "torchvision" in sys.modules, "results": results}))
"""


def draw(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.1))
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)


def run(source, target, data, out, **more):
    values = dict(
        source=str(source), target=str(target), data=[str(data)], out=str(out), batch_size=6, val_images=2,
        stage1_steps=2, stage2_steps=2, warmup_steps=1, workers=0, augment=False, device="cpu", cache_features=False,
    )  # fmt: skip
    return transfer(Settings(), **{**values, **more}).record


def write_all(
    runs: Mapping[str, tuple[str, Mapping[str, Any]]], source: Path, targets: Mapping[str, Path], data: Path, home: Path
) -> dict[str, Path]:
    """Run each of `runs`, given as a target and settings; return the folders that they wrote."""
    for name, (target, more) in runs.items():
        assert run(source, targets[target], data, home / name, **more)["status"] == "done"
    return {name: home / name for name in runs}


def judge(kind: str, folders: Mapping[str, Path], picture: Path) -> dict[str, Any]:
    """What transformers alone computes from folders of its class `kind`: of each the loss of `TEXT`, a caption and the
    prompt's ids."""
    return judge_all(kind, folders, [picture])[0]


def judge_all(kind: str, folders: Mapping[str, Path], pictures: Sequence[Path]) -> list[dict[str, Any]]:
    """The same of several pictures, in one process."""
    shown = json.dumps(list(map(str, pictures)))
    command = [sys.executable, "-c", JUDGE, kind, TEXT, shown, *map(str, folders.values())]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert not result["torchvision"]
    return [{name: one[str(folder)] for name, folder in folders.items()} for one in result["results"]]


def ours(folder: Path, picture: Path) -> tuple[float, str]:
    """The loss of `TEXT` and the caption that vpgt itself computes from a folder."""
    model = load_model(str(folder), Settings(device="cpu"), default_registry())
    shown = stacked([pixels(Image.open(picture).convert("RGB"), model.vpg.preprocessing)])
    rows = model.llm.layout([[model.llm.text.encode(Caption(TEXT), 32, Random(0))]], model.shown(shown))
    with torch.no_grad():
        loss = float(model.llm.loss(model.soft_prompts(shown, "pixels"), rows)) / rows.labels
    options = GenerateOptions(num_beams=1, max_new_tokens=6, min_new_tokens=3)
    return loss, caption(str(folder), [picture], options=options, settings=Settings(device="cpu"))[0].text


def agree(folder: Path, picture: Path, judged: Mapping[str, Any]) -> None:
    """transformers' loss and caption are ours."""
    loss, said = ours(folder, picture)
    assert abs(judged["loss"] - loss) < 1e-5 * max(1, loss)
    assert judged["said"] == said


SIZES = ((1, 1), (1, 90), (90, 1), (28, 28), (27, 29), (29, 27), (500, 13), (13, 500), (56, 57), (640, 480))
MODES = ("L", "P", "CMYK", "1", "RGBA")


def odd_pictures() -> Iterator[Image.Image]:
    """Twenty RGB pictures of odd sizes and shapes, half of which have been through other modes."""
    generator = torch.Generator().manual_seed(0)
    for number, (width, height) in enumerate(SIZES * 2):
        values = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy()
        picture = Image.fromarray(values)
        if number >= len(SIZES):
            picture = picture.convert(MODES[number % 5]).convert("RGB")
        yield picture
