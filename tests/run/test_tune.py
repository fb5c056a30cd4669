"""Instruction tuning: a finished folder is tuned on conversations, by `vpgt tune` and as a stage of a transfer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor

from tests.run import tiny_world
from tests.run.conftest import SMALL
from vpgtrans_core import transfer
from vpgtrans_core.cards import LLMFamily
from vpgtrans_core.cli.main import main
from vpgtrans_core.data.conversation import Conversation
from vpgtrans_core.errors import DataError
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.recipes.lists import INSTRUCTIONS
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.pipeline import Silent, tune
from vpgtrans_core.settings import Settings
from vpgtrans_core.templates import choose_template
from vpgtrans_core.train.signals import Interrupted
from vpgtrans_core.vlm.captioning import answer, load_model

TUNE: dict[str, Any] = {**SMALL, "steps": 3, "batch_size": 8, "max_tokens": 60, "lr": 1e-2, "template": "plain"}


def test_a_folder_is_tuned_and_answers_in_its_template(
    transferred: Path, talks: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TUNE.items() if not isinstance(value, bool)]
    vpgt("tune", str(transferred), "--data", talks["llava"], "--out", str(out), "--no-augment", "--quiet", *flags)
    record = json.loads((out / "run.json").read_text())
    stage = record["stages"]["3"]
    assert (record["status"], record["template"], record["start"]) == ("done", "plain", {"start": "kept"})
    assert (stage["steps"], stage["trains"]) == (3, ["projector", "vpg"]) and stage["labels"] > 0
    old, new = load_file(transferred / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert old.keys() == new.keys() and changed
    assert all(name.startswith(("language_projection", "qformer", "query", "vision_model.post")) for name in changed)
    model = load_model(str(out), Settings(device="cpu"), default_registry())
    assert model.template is not None and model.template.name == "plain"
    asked, picture = Conversation.about_image("a red"), Image.new("RGB", (28, 28), "red")
    assert isinstance(answer(model, asked, [picture], options=GenerateOptions(max_new_tokens=4)), str)
    processor = AutoProcessor.from_pretrained(out)
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a red"}]}]
    rendered = processor.tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    assert rendered == model.template.render(asked, ask=True)
    assert "| chat template | plain |" in (out / "README.md").read_text()
    # a tuned folder can be tuned again, in its own template; a VPG alone keeps the template, too
    again = tune(
        str(out), data=(talks["llava"],), out=str(tmp_path / "again"), save="vpg", **{**TUNE, "template": "auto"}
    )
    assert again.record["template"] == "plain" and (again.folder / "chat_template.jinja").is_file()
    kept = load_model(str(again.folder), Settings(device="cpu"), default_registry())
    assert kept.template == model.template
    capsys.readouterr()


def vpgt(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0


class Stop(Silent):
    """Interrupts the run after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, advance: int = 1, **values: float) -> None:
        import os
        import signal

        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def test_tuning_resumes_bit_for_bit(transferred: Path, talks: dict[str, str], tmp_path: Path) -> None:
    whole = tune(str(transferred), data=(talks["llava"],), out=str(tmp_path / "whole"), **TUNE)
    with pytest.raises(Interrupted):
        tune(str(transferred), data=(talks["llava"],), out=str(tmp_path / "cut"), reporter=Stop(2), **TUNE)
    resumed = tune(resume=True, out=str(tmp_path / "cut"))
    assert resumed.record["settings"]["method"] == "tune" and resumed.record["resumed"]
    one, other = (load_file(run.folder / "model.safetensors") for run in (whole, resumed))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_transfer_goes_on_to_the_papers_third_stage(world: Path, talks: dict[str, str], tmp_path: Path) -> None:
    run = transfer(
        source=str(world / "source"),
        target=str(world / "llama"),
        data=(str(world / "data" / "captions.json"),),
        then="minigpt4-align",
        then_data=(talks["align"],),
        out=str(tmp_path / "chat"),
        stage1_steps=1,
        stage2_steps=1,
        stage3_steps=2,
        stage3_batch_size=4,
        stage3_max_tokens=200,
        batch_size=8,
        **SMALL,
    )
    stages = run.record["stages"]
    assert [stage["name"] for stage in stages.values()] == ["warm-up", "fine-tuning", "minigpt4-align"]
    assert run.record["template"] == "minigpt4" and "###Assistant: " in (run.folder / "chat_template.jinja").read_text()
    assert stages["3"]["data"]["captions"] == 10  # two of twelve are held out
    tokenizer = tiny_world.tokenizer("llama")
    words = len(tokenizer("A red circle.###", add_special_tokens=False).input_ids)
    assert stages["3"]["labels"] % words == 0, "descriptions are kept as written"


def test_the_plan_of_all_three_stages(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["--from", "opt-6.7b", "--to", "vicuna-7b", "--then", "minigpt4-align"]
    vpgt("transfer", *names, "--dry-run", "--offline", "--json")
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert [stage["name"] for stage in stages] == ["warm-up", "fine-tuning", "minigpt4-align"]
    third = stages[2]
    assert (third["steps"], third["batch_captions"], third["rate"]) == (800, 120, 1e-5)
    assert third["trains"] == ["projector", "vpg"] and third["trained"] == stages[1]["trained"]


def test_descriptions_are_asked_for_in_the_papers_words(world: Path, talks: dict[str, str]) -> None:
    from vpgtrans_core.data.data import open_data
    from vpgtrans_core.data.loader import ReadOptions, StepReader
    from vpgtrans_core.data.order import Draw
    from vpgtrans_core.data.preprocessing import Preprocessing
    from vpgtrans_core.llm.decoder import DecoderOnlyLLM

    tokenizer = tiny_world.tokenizer("llama")
    options = ReadOptions(
        Preprocessing(28), 400, texts="instruction", template=choose_template("minigpt4", tokenizer),
        instructions=INSTRUCTIONS,
    )  # fmt: skip
    encoder = DecoderOnlyLLM.text_encoder_of(tokenizer, LLMFamily("any", ("any",), "any:LLM"))
    reader = StepReader(open_data([talks["align"]]), encoder, options)
    asked = {tokenizer.decode(reader.texts(Draw(0, row, visit))[0].context) for row in range(6) for visit in range(6)}
    found = {one for one in INSTRUCTIONS if any(one in text for text in asked)}
    assert found == set(INSTRUCTIONS) and len(asked) == len(INSTRUCTIONS)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["tune"], "MODEL is missing"),
        (["tune", "vpg-mini", "--data", "x.json"], "is a VPG without language model: there is nothing to tune"),
        (["transfer", "--from", "opt-mini-s", "--to", "llama-mini", "--then-data", "x.json"], "--then adds"),
        (["transfer", "--from", "opt-mini-s", "--to", "llama-mini", "--method", "tune"], "`vpgt tune MODEL`"),
        (["template", "t5-mini", "--template", "minigpt4"], "which this tokenizer does not know"),
        (["template", "t5-mini", "--template", "own"], "has no chat template"),
        (["template"], "MODEL is missing"),
    ],
)
def test_wrong_input_is_named(arguments: list[str], cause: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and cause in capsys.readouterr().err


def test_a_third_stage_needs_its_own_data(world: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data is given for minigpt4-align") as caught:
        transfer(source="opt-mini-s", target="llama-mini", then="minigpt4-align", out=str(tmp_path / "out"))
    assert "--then-data" in caught.value.hint


def test_a_template_is_shown_with_ids_and_labels(capsys: pytest.CaptureFixture[str]) -> None:
    vpgt("template", "llama-mini", "--json")
    shown = json.loads(capsys.readouterr().out)
    assert (shown["template"], shown["end"]) == ("own", "\n")
    assert [("image" if "image" in piece else piece["labelled"]) for piece in shown["pieces"]] == [
        "image", False, True, False, True,
    ]  # fmt: skip
    assert all(len(piece["ids"]) == len(piece["tokens"]) for piece in shown["pieces"] if "ids" in piece)
    vpgt("template", "llama-mini", "--template", "vicuna")
    text = capsys.readouterr().out
    assert "an answer ends with '</s>'" in text and "IMAGE 1" in text and text.count("LEARNED") == 2
    vpgt("template", "--list")
    assert capsys.readouterr().out.split() == ["alpaca", "minigpt4", "plain", "vicuna"]
