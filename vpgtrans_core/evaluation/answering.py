"""A model answers the samples of a task, many at once, always in the same batches.

The VPG sees each image once, however often it is asked about. Only prompts of the same number of tokens share a batch,
so nothing is padded. The batches follow from the samples and the batch size alone, and a batch that is not complete is
computed again as a whole: so neither an interruption nor the number of processes changes what is computed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.images import open_image, pixels
from vpgtrans_core.data.sample import ImageRef
from vpgtrans_core.errors import DataError
from vpgtrans_core.evaluation.task import EvalSample
from vpgtrans_core.llm.adapter import GenerateOptions
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


def answer(
    model: VLModel,
    samples: Sequence[EvalSample],
    prompts: Sequence[str],
    options: Callable[[str], GenerateOptions],
    *,
    batch: int,
    done: Collection[int] = (),
    part: tuple[int, int] = (0, 1),
) -> Iterator[list[tuple[int, str]]]:
    """Answer the samples that are not `done`, and yield each batch's numbers with answers when it is computed.

    Args:
        prompts: the text after the soft prompts, one a sample.
        options: how to generate after a prompt.
        batch: texts generated at once.
        done: numbers of samples that have answers already.
        part: this process's number, and how many there are: every so many-th chunk is its own.

    Raises:
        DataError: an image cannot be read.
    """
    encode = model.llm.text.prompt_ids
    lengths = [len(encode(prompt)) if prompt else 0 for prompt in prompts]
    chunks = []
    for chunk in plan_chunks(samples, lengths, batch)[part[0] :: part[1]]:
        if left := [numbers for numbers in chunk.batches if not all(number in done for number in numbers)]:
            chunks.append((chunk.images, left))
    count, shards = sum(len(batches) for _, batches in chunks), model.llm.shards
    missing = 0 if shards is None else shards.lockstep.most(count) - count
    for images, batches in chunks:
        outputs = see(model, images, batch)
        for numbers in batches:
            visual = torch.stack([outputs[samples[number].image.name] for number in numbers])
            asked = [prompts[number] for number in numbers]
            texts = model.generate(visual, "outputs", asked, options(asked[0]))
            yield list(zip(numbers, texts, strict=True))
    for _ in range(missing):
        model.llm.join_generation()


@torch.no_grad()
def see(model: VLModel, images: Sequence[ImageRef], batch: int) -> Mapping[str, Tensor]:
    """What the VPG makes of each image, ``[Q, D]``, by the image's name.

    Raises:
        DataError: an image cannot be read.
    """

    def load(ref: ImageRef) -> Tensor:
        try:
            return pixels(open_image(ref), model.vpg.preprocessing)
        except BadSampleError as error:
            detail = f" ({error.detail})" if error.detail else ""
            raise DataError(f"the image {ref.name} cannot be used: {error.kind}{detail}", "replace it") from error

    outputs: dict[str, Tensor] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(images), batch):
            several = images[start : start + batch]
            stacked = torch.stack(list(pool.map(load, several))).to(model.device)
            seen, _ = model.frozen(stacked, "pixels")
            outputs |= {ref.name: one for ref, one in zip(several, seen, strict=True)}
    return outputs
