"""``transformers serve`` answers a chat model's folder; whoever read the folder before still reads the same."""

from __future__ import annotations

import base64
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Blip2Processor, LlavaProcessor

from tests.chat.serving import transformers_serve
from vpgtrans_core.cli.main import main
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
    from vpgtrans_core.run.export import export_model

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
    with transformers_serve(folder) as address:
        yield address


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


@pytest.mark.slow
def test_from_a_transfer_to_a_client(picture: Path, tmp_path: Path) -> None:
    """The miniature is transferred and tuned by the commands, and its folder is served; what cannot be used is an error
    of the client's, and the next question is answered."""
    from openai import APIError, OpenAI

    from vpgtrans_core.miniature.data import items
    from vpgtrans_core.miniature.instructions import save

    data = save(items("train", 24), tmp_path / "talk")
    common = ["--device", "cpu", "--limit", "24", "--val-images", "4", "--quiet"]
    steps = ["--stage1-steps", "1", "--stage2-steps", "1", "--batch-size", "8", "--no-source-loss"]
    vpgt("transfer", "--from", "opt-mini-s", "--to", "llama-mini", "--out", str(tmp_path / "sees"), *common, *steps)
    tuned = tmp_path / "talks"
    vpgt("tune", str(tmp_path / "sees"), "--data", str(data), "--out", str(tuned), "--steps", "2", *common)
    model = load_model(str(tuned), Settings(device="cpu"), default_registry())
    assert model.template is not None
    options = GenerateOptions(num_beams=1, min_new_tokens=1, max_new_tokens=TOKENS)
    url = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    asked = "what color is the ball ?"
    with transformers_serve(tuned) as address:

        def ask(url: str, question: str, images: int = 1) -> str:
            shown = [{"type": "image_url", "image_url": {"url": url}}] * images
            talk = [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}]
            with OpenAI(base_url=address, api_key="none", max_retries=0) as client:
                made = client.chat.completions.create(model=str(tuned), messages=talk, max_tokens=TOKENS, temperature=0)
            return str(made.choices[0].message.content).split(model.template.end)[0].strip()

        expected = answer(model, Conversation.about_image(asked), [picture], options=options)
        assert ask(url, asked) == expected
        with pytest.raises(APIError):
            ask("data:image/png;base64," + base64.b64encode(b"no image").decode(), asked)
        assert ask(url, asked) == expected
        # the server does not look at lengths: LLaMA reads on beyond its positions, OPT fails there
        for wrong in ((url, "what " * 200, 1), (url, asked, 40), (url, "", 1)):
            with contextlib.suppress(APIError):
                ask(*wrong)
            assert ask(url, asked) == expected


def vpgt(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
