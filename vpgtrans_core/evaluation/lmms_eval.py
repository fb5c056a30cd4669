"""The model ``vpgt`` of lmms-eval: any VL-LLM that vpgt loads, with BLIP-2's prompts.

``lmms-eval --model vpgt --model_args pretrained=FOLDER --tasks coco_karpathy_test,vqav2_val``
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from loguru import logger
from PIL.Image import Image

from vpgtrans_core.data.images import pixels
from vpgtrans_core.data.sample import Caption
from vpgtrans_core.data.tiles import stacked
from vpgtrans_core.errors import ConfigError, DataError
from vpgtrans_core.evaluation.prompts import Asked, as_blip2, as_given, cut, until
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.shown import Prompts, shown_in
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import build
from vpgtrans_core.vlm.captioning import BATCH, load_model, say

PROMPTS = ("blip2", "task")
GREEDY = GenerateOptions(num_beams=1, min_new_tokens=1)


class Judged(GenerationResult):
    """The pair of a loss and whether the answer is the greedy one, which can be unpacked as such.

    lmms-eval 0.7's evaluator makes a string of any other pair before its multiple choice takes it apart.
    """

    def __init__(self, loss: float, greedy: bool) -> None:
        super().__init__(text=(loss, greedy))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.text)


class VpgtModel(lmms):
    """A VL-LLM for lmms-eval's tasks with one image a document.

    Args:
        pretrained: an alias, hub id or folder of a VL-LLM, as for ``vpgt caption``.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto, float32, bfloat16 or float16.
        batch_size: pictures at once; only requests with the same prompt share a batch.
        prompts: ``blip2``: captions without a prompt, questions as ``Question: ... Answer:``, the paper's beam search,
            which a request may only shorten; ``task``: the task's own words and generation arguments.
        caption_prompt: the prompt for captions, with ``prompts=blip2``.
        question_prompt: the prompt for questions, with ``{}``; default that of the LLM's family.
        num_beams, max_new_tokens, min_new_tokens, length_penalty: win over both.
        quantization, offline, trust_remote_code: as the settings of the same names.

    Raises:
        VpgtError: the model cannot be loaded, or an argument is not known.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | str = 1,
        prompts: str = "blip2",
        caption_prompt: str = "",
        question_prompt: str | None = None,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        min_new_tokens: int | None = None,
        length_penalty: float | None = None,
        quantization: str = "none",
        offline: bool = False,
        trust_remote_code: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__()
        unknown.pop("max_batch_size", None)  # lmms-eval hands it to every model
        if unknown or prompts not in PROMPTS:
            problems = [f"model_args: {name} is not known" for name in unknown]
            wrong = [f"model_args: prompts must be one of {', '.join(PROMPTS)}, not {prompts!r}"]
            raise ConfigError(problems or wrong, "see vpgtrans_core/evaluation/lmms_eval.py")
        if question_prompt and "{}" not in question_prompt:
            raise ConfigError(
                [f"model_args: question_prompt {question_prompt!r} has no place for the question"],
                "put {} where the question goes: question_prompt=Question: {} Answer:",
            )
        settings = build(
            {"device": device, "dtype": dtype, "quantization": quantization, "offline": offline}
            | {"trust_remote_code": trust_remote_code}
        )
        self.vl = load_model(str(pretrained), settings, default_registry())
        self.accelerator = Accelerator(cpu=self.device.type == "cpu", mixed_precision="no")
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.batch_size = BATCH if batch_size == "auto" else int(batch_size)
        self.prompts = prompts
        self.caption_prompt = caption_prompt
        self.question_prompt = question_prompt or self.vl.llm.family.question_prompt
        own: dict[str, float | None] = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        own |= {"min_new_tokens": min_new_tokens, "length_penalty": length_penalty}
        self.own = {name: value for name, value in own.items() if value is not None}

    @property
    def device(self) -> torch.device:
        return self.vl.device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answer each request by beam search; requests with the same prompt and options are computed together."""
        groups: dict[Asked, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            context, wanted, *_ = request.args
            self._warn_of_sampling(wanted)
            groups[self._asked(context, wanted)].append(number)
        answers = [""] * len(requests)
        for asked, numbers in groups.items():
            for start in range(0, len(numbers), self.batch_size):
                part = numbers[start : start + self.batch_size]
                images = [self._image(requests[number]) for number in part]
                said = say(self.vl, images, prompt=asked.prompt, options=asked.options, batch=self.batch_size)
                for number, one in zip(part, said, strict=True):
                    context, wanted, *_ = requests[number].args
                    answers[number] = cut(one.text, until(wanted))
                    self.cache_hook.add_partial("generate_until", (context, wanted), answers[number])
        return answers

    @torch.no_grad()
    def loglikelihood(self, requests: list[Instance]) -> list[Judged]:
        """The loss of each answer (nats, summed over its tokens and its end), and whether it is the greedy one.

        A loss and not its negative: lmms-eval's multiple choice takes the choice with the smallest.
        """
        greedy: dict[tuple[Any, ...], str] = {}
        results: list[Judged] = []
        for request in requests:
            context, target, _, doc_id, task, split = request.args
            said = target if isinstance(target, str) else target(self.task_dict[task][split][doc_id])
            asked = self._asked(context, {})
            batch = stacked([pixels(self._image(request), self.vl.vpg.preprocessing)]).to(self.device)
            soft = self.vl.soft_prompts(batch, "pixels")
            key = (task, split, doc_id, asked.prompt)
            if key not in greedy:
                (greedy[key],) = self.vl.llm.generate(soft, asked.prompt, GREEDY)
            results.append(Judged(self._loss(soft, asked.prompt, said.strip()), greedy[key] == said.strip()))
        return results

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("a VL-LLM of vpgt answers once: it knows no rounds of a conversation")

    def _asked(self, context: str, wanted: dict[str, Any]) -> Asked:
        if self.prompts == "task":
            return as_given(context, wanted, own=self.own)
        return as_blip2(
            context, wanted, caption_prompt=self.caption_prompt, question_prompt=self.question_prompt, own=self.own
        )

    def _image(self, request: Instance) -> Image:
        """The request's image.

        Raises:
            DataError: it has none, or several.
        """
        to_visual, doc_id, task, split = request.args[2:6]
        visuals: Sequence[Any] = to_visual(self.task_dict[task][split][doc_id]) if to_visual else []
        if len(visuals or []) != 1 or not isinstance(visuals[0], Image):
            raise DataError(
                f"document {doc_id} of the task {task} has {len(visuals or [])} pictures or what is none",
                "these models see one picture at a time: choose tasks with one",
            )
        return visuals[0]

    def _loss(self, soft: Prompts, prompt: str, said: str) -> float:
        text = self.vl.llm.text(Caption(said, prompt), 1 << 16, random.Random(0))
        rows = self.vl.llm.layout([[text]], shown_in(soft)).to(self.device)
        return float(self.vl.llm.loss(soft, rows))

    def _warn_of_sampling(self, wanted: dict[str, Any]) -> None:
        if wanted.get("do_sample") and not getattr(self, "_warned", False):
            self._warned = True
            logger.warning("the task asks for sampling; vpgt's models answer by beam search, always the same")
