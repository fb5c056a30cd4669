"""A finished model continues conversations about several images; a VPG that is not what it says is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from vpgtrans_core.data.conversation import Conversation, ImageMark, Turn
from vpgtrans_core.data.images import pixels
from vpgtrans_core.errors import DataError, ModelError
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.text import ImagePlace
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.templates import chat_text
from vpgtrans_core.vlm.captioning import answer, load_model
from vpgtrans_core.vlm.model import VLModel

OPTIONS = GenerateOptions(num_beams=2, max_new_tokens=5, min_new_tokens=2)
TALK = Conversation(
    (
        Turn("user", (ImageMark(0), "a red circle", ImageMark(1))),
        Turn("assistant", ("a square",)),
        Turn("user", ("where is it",)),
    )
)


@pytest.fixture(scope="module")
def model() -> Iterator[VLModel]:
    yield load_model("opt-mini-s", Settings(device="cpu", template="plain"), default_registry())


def test_an_answer_is_what_transformers_generates(model: VLModel) -> None:
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    said = answer(model, TALK, images, options=OPTIONS)
    seen = torch.stack([pixels(image, model.vpg.preprocessing) for image in images])
    with torch.no_grad():
        soft = model.soft_prompts(seen, "pixels")
    llm = model.llm
    assert model.template is not None
    text = chat_text(llm.text, model.template, TALK)
    table = llm.model.get_input_embeddings()
    row = [soft[p.index] if isinstance(p, ImagePlace) else table(torch.tensor(p.ids)) for p in text.pieces]
    arguments = llm.generation_arguments(OPTIONS)
    arguments.eos_token_id = llm.tokenizer.eos_token_id
    ids = llm.model.generate(inputs_embeds=torch.cat(row)[None], generation_config=arguments)
    assert said == llm.tokenizer.decode(ids[0], skip_special_tokens=True).strip()


def test_images_and_marks_must_agree(model: VLModel) -> None:
    with pytest.raises(DataError, match=r"shows the images \[0, 1\], and 1 are given"):
        answer(model, TALK, [Image.new("RGB", (40, 30))])


def test_a_vpg_with_another_number_of_prompts_is_refused(model: VLModel) -> None:
    outputs = torch.zeros(1, model.vpg.num_prompts + 1, model.vpg.output_size)
    with pytest.raises(ModelError) as caught:
        model.soft_prompts(outputs, "outputs")
    assert f"gives {model.vpg.num_prompts + 1} soft prompts" in caught.value.message
    assert f"but states {model.vpg.num_prompts} of" in caught.value.message
