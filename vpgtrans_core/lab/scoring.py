"""Scores of a model in memory: tasks at its points, and what its soft prompts look like beside words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from vpgtrans_core.data.tiles import stacked
from vpgtrans_core.evaluation.answering import answer
from vpgtrans_core.evaluation.encoding import ImageEncoder
from vpgtrans_core.evaluation.files import open_files
from vpgtrans_core.evaluation.metrics.metric import Metric
from vpgtrans_core.evaluation.run import EvalSettings, make, open_metrics, read_samples
from vpgtrans_core.evaluation.scoring import score
from vpgtrans_core.evaluation.task import EvalSample
from vpgtrans_core.llm.shown import flat
from vpgtrans_core.registry import Registry
from vpgtrans_core.vlm.captioning import default_options
from vpgtrans_core.vlm.model import VLModel

LOOKED_AT = 64
"""Images whose soft prompts are compared with words."""
SHORTEST = 3
"""Letters of the shortest word that a soft prompt is read as."""


@dataclass(frozen=True)
class OpenTask:
    """A task ready to be asked: its samples with their prompts, and its metrics, that which counts first."""

    name: str
    samples: list[EvalSample]
    prompts: list[str]
    metrics: dict[str, Metric]


def open_tasks(uses: Mapping[str, Mapping[str, Any]], question_prompt: str, registry: Registry) -> list[OpenTask]:
    """Read the tasks' samples.

    Raises:
        VpgtError: a task's files or metrics are missing.
    """
    found = []
    for name, use in uses.items():
        card = registry.eval_task(name)
        task = make(card)
        metric = (use["metric"],) if use.get("metric") else ()
        settings = EvalSettings(name, data=tuple(use.get("data") or ()), limit=use.get("limit"), metrics=metric)
        samples = read_samples(task, open_files(card.name, settings.data, card.wants, needs_images=True), settings)
        prompts = [task.prompt(sample, question_prompt) for sample in samples]
        found.append(OpenTask(name, samples, prompts, open_metrics(settings, card, registry)))
    return found


def score_tasks(
    model: VLModel, tasks: Iterable[OpenTask], generate: Mapping[str, Any], batch: int, encoder: ImageEncoder
) -> dict[str, dict[str, Any]]:
    """Ask all tasks; return for each the metrics by name, the name of the one that counts, and for captions the latter
    with the captions exchanged between the pictures."""
    scores: dict[str, dict[str, Any]] = {}
    for task in tasks:
        answers: dict[int, str] = {}
        batches = answer(
            model, task.samples, task.prompts, lambda p: _options(p, generate), batch=batch, encoder=encoder
        )
        for several in batches:
            answers |= dict(several)
        texts = [answers[number] for number in range(len(task.samples))]
        scored = score(task.metrics, task.samples, texts)
        values = {one.name: one.whole.value for one in scored}
        scores[task.name] = {"counts": scored[0].name, "scores": values, "samples": len(task.samples)}
        if not any(task.prompts) and len(task.samples) > 1:
            scores[task.name]["exchanged"] = _exchanged(task, texts)
    return scores


def _exchanged(task: OpenTask, answers: Sequence[str]) -> float:
    """The score of captions each of which stands under the next picture: what they score without what they see."""
    metric = next(iter(task.metrics.values()))
    return metric.score([*answers[1:], answers[0]], [sample.references for sample in task.samples]).value


def _options(prompt: str, generate: Mapping[str, Any]) -> Any:
    options = replace(default_options(prompt), **generate)
    return replace(options, min_new_tokens=min(options.min_new_tokens, options.max_new_tokens))


@torch.no_grad()
def prompts_and_words(model: VLModel, tasks: Sequence[OpenTask], encoder: ImageEncoder) -> dict[str, float]:
    """The soft prompts of some images beside the words of their captions; empty without a task of captions.

    Returns:
        ``prompt_norm`` and ``word_norm``, means; ``own``, the share of soft prompts whose nearest word (by cosine,
        among the words of all these captions) is one of the image's own captions, and ``other``, the same with the
        captions of another image, which is chance.
    """
    captioned = next((task for task in tasks if not any(task.prompts)), None)
    if captioned is None:
        return {}
    samples = captioned.samples[:LOOKED_AT]
    said = [{w for text in s.references for w in re.findall(r"\w+", text.lower())} for s in samples]
    words = _single_tokens(model, sorted({w for several in said for w in several if len(w) >= SHORTEST}))
    if not words:
        return {}
    table = model.llm.embed(torch.tensor(list(words.values()), device=model.device)).float()
    outputs = encoder.encode([s.image for s in samples])
    visual = model.whole_pictures(stacked([outputs[s.image.name] for s in samples]))
    prompts = flat(model.soft_prompts(visual, "outputs")).view(len(visual), -1, table.shape[1]).float()
    near = torch.nn.functional.normalize(prompts, dim=-1) @ torch.nn.functional.normalize(table, dim=-1).T
    names = list(words)
    read = [[names[i] for i in row] for row in near.argmax(-1).tolist()]
    own = [word in said[n] for n, row in enumerate(read) for word in row]
    other = [word in said[(n + 1) % len(said)] for n, row in enumerate(read) for word in row]
    return {
        "prompt_norm": float(prompts.norm(dim=-1).mean()),
        "word_norm": float(table.norm(dim=-1).mean()),
        "own": sum(own) / len(own),
        "other": sum(other) / len(other),
    }


def _single_tokens(model: VLModel, words: Sequence[str]) -> dict[str, int]:
    """The words that the LLM writes as one token after a space, with that token."""
    tokenizer = model.llm.tokenizer
    before = len(tokenizer("a", add_special_tokens=False)["input_ids"])
    found = {}
    for word in words:
        ids = tokenizer(f"a {word}", add_special_tokens=False)["input_ids"][before:]
        if len(ids) == 1:
            found[word] = int(ids[0])
    return found
