"""A model answers the samples of a task, many at once, always in the same batches.

The VPG sees each image once, however often it is asked about: see `encoding`. Only prompts of the same number of tokens
share a batch, so nothing is padded. The batches follow from the samples and the batch size alone, and a batch that is
not complete is computed again as a whole: so neither an interruption nor the number of processes changes what is
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.images import open_image
from vpgtrans_core.data.sample import ImageRef
from vpgtrans_core.data.tiles import stacked
from vpgtrans_core.evaluation.encoding import ImageEncoder
from vpgtrans_core.evaluation.files import refuse
from vpgtrans_core.evaluation.task import EvalSample
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.text import Text
from vpgtrans_core.vlm.model import VLModel

IMAGES = 128
"""Images whose VPG outputs are held at once."""


@dataclass(frozen=True)
class Chunk:
    """Some images, and the batches of samples (by their numbers) that ask about them."""

    images: tuple[ImageRef, ...]
    batches: tuple[tuple[int, ...], ...]


def plan_chunks(samples: Sequence[EvalSample], lengths: Sequence[int], batch: int) -> list[Chunk]:
    """Cut samples into batches of at most `batch` prompts of the same length; `lengths` counts their tokens."""
    by_image: dict[str, list[int]] = {}
    for number, sample in enumerate(samples):
        by_image.setdefault(sample.image.name, []).append(number)
    groups = list(by_image.values())
    return [_chunk(groups[start : start + IMAGES], samples, lengths, batch) for start in range(0, len(groups), IMAGES)]


def _chunk(groups: Sequence[list[int]], samples: Sequence[EvalSample], lengths: Sequence[int], batch: int) -> Chunk:
    by_length: dict[int, list[int]] = {}
    for number in (number for group in groups for number in group):
        by_length.setdefault(lengths[number], []).append(number)
    batches = [same[i : i + batch] for _, same in sorted(by_length.items()) for i in range(0, len(same), batch)]
    return Chunk(tuple(samples[group[0]].image for group in groups), tuple(map(tuple, batches)))


def refuse_long(
    model: VLModel, samples: Sequence[EvalSample], prompts: Sequence[str], options: Callable[[str], GenerateOptions]
) -> None:
    """Refuse prompts after which the LLM has no positions left for the longest answer.

    Raises:
        DataError: naming their samples.
    """
    llm = model.llm
    texts = {prompt: llm.text.prompt_text(prompt) for prompt in dict.fromkeys(prompts)}
    taken = _positions(model, samples) if llm.room(Text(()), 0) is not None else {}
    problems = []
    for sample, prompt in zip(samples, prompts, strict=True):
        room = llm.room(texts[prompt], taken.get(sample.image.name, model.vpg.num_prompts))
        wanted = options(prompt).max_new_tokens
        if room is not None and room < wanted:
            left = f"{max(room, 0)} positions for {wanted} tokens"
            problems.append(f"the question {sample.id!r} leaves the LLM {left} of an answer" if sample.question else
                            f"the prompt leaves the LLM {left} of a caption")  # fmt: skip
    refuse(list(dict.fromkeys(problems)), "lower --max-new-tokens, shorten --prompt, or leave these questions out")


def _positions(model: VLModel, samples: Sequence[EvalSample]) -> dict[str, int]:
    """How many of the LLM's positions each picture takes, where that depends on its size. One that cannot be read is
    told of later."""
    if not model.vpg.preprocessing.tiled:
        return {}
    positions = {}
    for image in {sample.image.name: sample.image for sample in samples}.values():
        with suppress(BadSampleError):
            shown = model.shown_of(*open_image(image).size)
            positions[image.name] = sum(run if isinstance(run, int) else len(run) for run in shown)
    return positions


def answer(
    model: VLModel,
    samples: Sequence[EvalSample],
    prompts: Sequence[str],
    options: Callable[[str], GenerateOptions],
    *,
    batch: int,
    done: Collection[int] = (),
    part: tuple[int, int] = (0, 1),
    encoder: ImageEncoder | None = None,
) -> Iterator[list[tuple[int, str]]]:
    """Answer the samples that are not `done`, and yield each batch's numbers with answers when it is computed.

    Args:
        prompts: the text after the soft prompts, one a sample.
        options: how to generate after a prompt.
        batch: texts generated at once.
        done: numbers of samples that have answers already.
        part: this process's number, and how many there are: every so many-th chunk is its own.
        encoder: encodes the images; default one without a cache.

    Raises:
        DataError: an image cannot be read.
    """
    encoder = encoder or ImageEncoder(model, batch)
    lengths = [len(model.llm.text.prompt_ids(prompt)) if prompt else 0 for prompt in prompts]
    chunks = []
    for chunk in plan_chunks(samples, lengths, batch)[part[0] :: part[1]]:
        if left := [numbers for numbers in chunk.batches if not all(number in done for number in numbers)]:
            chunks.append((chunk.images, left))
    count, shards = sum(len(batches) for _, batches in chunks), model.llm.shards
    missing = 0 if shards is None else shards.lockstep.most(count) - count
    for images, batches in chunks:
        outputs = encoder.encode(images)
        for numbers in batches:
            visual = stacked([outputs[samples[number].image.name] for number in numbers])
            asked = [prompts[number] for number in numbers]
            texts = model.generate(visual, "outputs", asked, options(asked[0]))
            yield list(zip(numbers, texts, strict=True))
    for _ in range(missing):
        model.llm.join_generation()
