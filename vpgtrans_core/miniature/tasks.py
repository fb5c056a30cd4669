"""The miniature's tasks: they draw their own pictures and need no files."""

from __future__ import annotations

from typing import ClassVar

from vpgtrans_core.data.sample import InMemoryImage
from vpgtrans_core.evaluation.files import DataFiles
from vpgtrans_core.evaluation.task import EvalSample, Task
from vpgtrans_core.miniature.data import Split, items
from vpgtrans_core.miniature.language import QUESTION_KINDS, text

PICTURES = 200


class MiniCaptions(Task):
    """Captions of scenes like those of the training pictures."""

    id_key, answer_key = "image_id", "caption"
    split: ClassVar[Split] = "val"

    def read(self, files: DataFiles, *, scored: bool) -> list[EvalSample]:
        files.end()
        return [
            EvalSample(item.key, InMemoryImage(item.key, item.image), references=tuple(item.captions))
            for item in items(self.split, PICTURES)
        ]


class MiniHeld(MiniCaptions):
    """Captions of combinations of colour and noun that no training picture shows."""

    split = "held"


class MiniQuestions(Task):
    """Every kind of question that a scene allows; the kinds are scored by themselves too."""

    id_key, answer_key = "question_id", "answer"
    kinds: ClassVar[tuple[str, ...]] = QUESTION_KINDS

    def read(self, files: DataFiles, *, scored: bool) -> list[EvalSample]:
        files.end()
        samples = []
        for item in items("val", PICTURES):
            image = InMemoryImage(item.key, item.image)
            for number, asked in enumerate(item.questions):
                if asked.kind not in self.kinds:
                    continue
                key, question = f"{item.key}-{number}", f"{text(asked.words)} ?"
                samples.append(EvalSample(key, image, question, (asked.answer.text,), asked.kind))
        return samples

    def prompt(self, sample: EvalSample, question_prompt: str) -> str:
        return super().prompt(sample, question_prompt.lower())  # the zoo's models read lower case only


class MiniSteps(MiniQuestions):
    """Questions of several steps, as GQA's: find one thing, then the other one that stands in a relation to it."""

    kinds = ("relation", "steps")


class MiniKnowledge(MiniQuestions):
    """Questions that need what no picture shows, as OK-VQA's: what kind of thing a thing is."""

    kinds = ("knowledge",)
