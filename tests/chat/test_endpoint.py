"""``transformers serve`` answers a chat model's folder; whoever read the folder before still reads the same."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Blip2Processor, LlavaProcessor

from vpgtrans_core.data.conversation import Conversation, ImageMark, Turn
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.templates import chat_text, write_template
from vpgtrans_core.vlm.captioning import answer, load_model

QUESTION = "question: what is it ? answer:"
TOKENS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source as the folder of a model that was tuned in the template ``plain``."""
    from vpg_qformer.conversion import export_model

    folder = tmp_path_factory.mktemp("chat") / "model"
    export_model(
        "opt-mini-s", folder, to="hf", registry=default_registry(), settings=Settings(device="cpu"), overwrite=False
    )
    model = load_model("opt-mini-s", Settings(device="cpu", template="plain"), default_registry())
    assert model.template is not None
    write_template(folder, model.template)
    shutil.copytree(folder, folder.parent / "before")
    model.vpg.prepare_endpoint(folder, model.llm.answer_ends(model.template.end))
    return folder


def test_only_configs_change(folder: Path) -> None:
    before = folder.parent / "before"
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in before.iterdir()}
    changed = {name for name in names if (folder / name).read_bytes() != (before / name).read_bytes()}
    assert changed <= {"processor_config.json", "tokenizer_config.json", "generation_config.json"}


def test_blip2s_processor_reads_it_as_before(folder: Path) -> None:
    image = Image.new("RGB", (30, 40), "teal")
    now, then = (Blip2Processor.from_pretrained(place) for place in (folder, folder.parent / "before"))
    for text in ("", "a red ball"):
        ours, theirs = (p(images=image, text=text, return_tensors="pt") for p in (now, then))
        assert set(ours) == set(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_our_own_loading_takes_the_recorded_template(folder: Path) -> None:
    image = Image.new("RGB", (30, 40), "teal")
    talk = Conversation.about_image(QUESTION)
    options = GenerateOptions(num_beams=1, min_new_tokens=1, max_new_tokens=TOKENS)
    ours, plain = (
        load_model(name, Settings(device="cpu", template=template), default_registry())
        for name, template in ((str(folder), "auto"), ("opt-mini-s", "plain"))
    )
    assert answer(ours, talk, [image], options=options) == answer(plain, talk, [image], options=options)


def test_several_images_stand_where_the_template_has_them(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, LlavaProcessor)
    content = [
        {"type": "image"},
        {"type": "text", "text": "and"},
        {"type": "image"},
        {"type": "text", "text": QUESTION},
    ]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    ids = processor(
        images=[Image.new("RGB", (9, 9))] * 2, text=text, add_special_tokens=False, return_tensors="pt"
    ).input_ids[0]
    model = load_model(str(folder), Settings(device="cpu"), default_registry())
    turn = Turn("user", (ImageMark(0), "and", ImageMark(1), QUESTION))

    assert model.template is not None
    expected = chat_text(model.llm.text, model.template, Conversation((turn,)))
    image = processor.image_token_id
    assert (ids == image).sum() == 2 * model.vpg.num_prompts
    runs = [int(i) for i in ids if i != image]
    assert runs == list(expected.context)


@pytest.fixture
def endpoint(folder: Path) -> Iterator[str]:
    for name in ("openai", "fastapi", "uvicorn"):
        pytest.importorskip(name, reason='the endpoint: pip install -e ".[serve]"')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert server.poll() is None, "the server ended"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_transformers_serve_answers(folder: Path, endpoint: str, picture: Path) -> None:
    """With the answer that vpgt gives, for one image and for two."""
    from openai import OpenAI

    client = OpenAI(base_url=endpoint, api_key="none", max_retries=0)
    url = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    model = load_model(str(folder), Settings(device="cpu"), default_registry())
    options = GenerateOptions(num_beams=1, min_new_tokens=1, max_new_tokens=TOKENS)
    for images in (1, 2):
        content = [{"type": "image_url", "image_url": {"url": url}}] * images + [{"type": "text", "text": QUESTION}]
        given = {"model": str(folder), "messages": [{"role": "user", "content": content}]}
        said = client.chat.completions.create(**given, max_tokens=TOKENS, temperature=0).choices[0].message.content
        turn = Turn("user", (*map(ImageMark, range(images)), QUESTION))
        assert said.strip() == answer(model, Conversation((turn,)), [picture] * images, options=options)
