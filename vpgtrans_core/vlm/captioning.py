"""Use a finished VL-LLM: load it from its folder and ask it about images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpgtrans_core.data.conversation import Conversation
from vpgtrans_core.errors import DataError, ModelError
from vpgtrans_core.registry import Registry, default_registry
from vpgtrans_core.settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image

    from vpgtrans_core.llm.adapter import GenerateOptions
    from vpgtrans_core.templates import ChatTemplate
    from vpgtrans_core.vlm.model import VLModel

GENERATION = "generation_config.json"
"""What a model's folder says of how it generates."""
BATCH = 16
"""Images generated for at once."""


@dataclass(frozen=True)
class Said:
    """The generated text for one image."""

    image: str
    text: str


def caption(
    model: str,
    images: Sequence[str | Path | Image],
    *,
    prompt: str = "",
    options: GenerateOptions | Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    registry: Registry | None = None,
) -> list[Said]:
    """Describe images with a VL-LLM, or answer a prompt such as ``Question: what is it? Answer:``.

    Args:
        model: an alias, hub id or folder of a VL-LLM; an output of `transfer`.
        images: files or PIL images.
        prompt: the text before the generated one.
        options: default as the model's folder says, else beam search as in the paper; for a prompt, the paper's
            settings for answers. A mapping changes some of them.
        settings: device, precision and the like.

    Raises:
        DataError: an image cannot be read. ModelError: the model cannot be found or has no projector or LLM.
    """
    given = settings or Settings()
    vl = load_model(model, given, registry or default_registry())
    if options is None or isinstance(options, Mapping):
        own = default_options(prompt) if prompt else folder_options(model, given, registry or default_registry())
        options = dataclasses.replace(own, **(options or {}))
    return list(say(vl, images, prompt=prompt, options=options))


def load_model(name: str, settings: Settings, registry: Registry) -> VLModel:
    """Load a whole VL-LLM for inference.

    Raises:
        ModelError: see `load_whole`.
    """
    from vpgtrans_core.machine import choose_machine
    from vpgtrans_core.models.resolve import resolve_source
    from vpgtrans_core.vlm.assemble import load_whole

    source = resolve_source(name, registry, settings)
    half = source.llm.family.half if source.llm else "float32"
    return load_whole(source, choose_machine(settings, half), settings)


def say(
    model: VLModel,
    images: Sequence[str | Path | Image],
    *,
    prompt: str = "",
    options: GenerateOptions | None = None,
    batch: int = BATCH,
) -> Iterator[Said]:
    """Generate for images in order, `batch` at once."""
    from vpgtrans_core.data.images import pixels
    from vpgtrans_core.data.tiles import stacked

    chosen = options or default_options(prompt)
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        named = [open_image(image, start + number) for number, image in enumerate(part)]
        shown = stacked([pixels(image, model.vpg.preprocessing) for _, image in named]).to(model.device)
        texts = model.generate(shown, "pixels", prompt, chosen)
        yield from (Said(name, text) for (name, _), text in zip(named, texts, strict=True))


def answer(
    model: VLModel,
    conversation: Conversation,
    images: Sequence[str | Path | Image],
    *,
    template: ChatTemplate | None = None,
    options: GenerateOptions | None = None,
) -> str:
    """Generate the next answer in a conversation about images.

    Args:
        model: the result of `load_model`.
        conversation: the turns so far, the last of them a question; its marks say where each image is shown.
        images: files or PIL images, in the order of the marks' numbers.
        template: default the model's own.
        options: how to generate; default beam search for one to 64 new tokens.

    Raises:
        DataError: an image cannot be read, or there are others than the conversation shows.
    """
    from vpgtrans_core.data.images import pixels
    from vpgtrans_core.data.tiles import stacked
    from vpgtrans_core.llm.adapter import GenerateOptions
    from vpgtrans_core.templates import chat_text

    shown = sorted(set(conversation.marks))
    if shown != list(range(len(images))):
        raise DataError(
            f"the conversation shows the images {shown}, and {len(images)} are given",
            "give one image for each number of a mark, from 0",
        )
    opened = [open_image(image, number)[1] for number, image in enumerate(images)]
    seen = stacked([pixels(image, model.vpg.preprocessing) for image in opened]).to(model.device)
    chosen_template = template or model.template
    if chosen_template is None:
        raise ModelError("the model has no chat template", "give one with --template, for example minigpt4")
    prompt = chat_text(model.llm.text, chosen_template, conversation)
    chosen = options or GenerateOptions(max_new_tokens=64, min_new_tokens=1)
    return model.generate(seen, "pixels", [prompt], chosen, [len(images)])[0]


def folder_options(name: str, settings: Settings, registry: Registry) -> GenerateOptions:
    """How a model's captions are generated: as its folder says, else as in the paper."""
    from vpgtrans_core.files import read_json
    from vpgtrans_core.models.resolve import resolve_source

    folder = resolve_source(name, registry, settings).folder
    path = folder / GENERATION if folder else None
    own = read_json(path) if path and path.is_file() else {}
    paper = default_options("")
    known = {field.name: type(getattr(paper, field.name)) for field in dataclasses.fields(paper)}
    values = {key: own[key] for key, kind in known.items() if isinstance(own.get(key), (kind, int))}
    return dataclasses.replace(paper, **values)


def default_options(prompt: str) -> GenerateOptions:
    """The paper's generation: captions of 8 to 30 tokens, or answers of at most 10 with length penalty -1."""
    from vpgtrans_core.llm.adapter import GenerateOptions

    if prompt:
        return GenerateOptions(num_beams=5, max_new_tokens=10, min_new_tokens=1, length_penalty=-1.0)
    return GenerateOptions()


def open_image(image: Any, number: int) -> tuple[str, Image]:
    """A name and an RGB image; files pass through the gate."""
    from vpgtrans_core.data.bad import BadSampleError
    from vpgtrans_core.data.images import decode
    from vpgtrans_core.data.regular import MAX_BYTES, read_regular

    if not isinstance(image, (str, Path)):
        return f"image {number + 1}", image.convert("RGB")
    try:
        return str(image), decode(read_regular(Path(image).expanduser(), MAX_BYTES))
    except OSError as error:
        raise DataError(f"cannot read the image {image}: {error.strerror or error}") from error
    except BadSampleError as error:
        detail = f" ({error.detail})" if error.detail else ""
        raise DataError(f"{image} cannot be used: {error.kind}{detail}", "give JPEG, PNG or WebP images") from error
