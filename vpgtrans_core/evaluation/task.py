"""What an evaluation task is: samples out of its files, and answers in the form that its server takes. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from vpgtrans_core.data.sample import ImageRef
from vpgtrans_core.evaluation.files import DataFiles

Id = int | str


@dataclass(frozen=True)
class EvalSample:
    """One thing that the model is asked.

    Attributes:
        id: the task's own id: of the question, or of the image where it is captioned.
        image: where the image is.
        question: the question; empty for a caption.
        references: captions, or the answers of the annotators, as the task's files have them; empty where they are
            not published.
        group: a part of the task that is scored by itself too, such as NoCaps' domains; empty for none.
    """

    id: Id
    image: ImageRef
    question: str = ""
    references: tuple[str, ...] = ()
    group: str = ""


class Task(ABC):
    """One evaluation task. Subclass it, and name the class in an `EvalTask` card; it is made without arguments.

    Attributes:
        id_key, answer_key: the fields of one row of the task's official result file.
    """

    id_key: ClassVar[str] = "id"
    answer_key: ClassVar[str] = "answer"

    @abstractmethod
    def read(self, files: DataFiles, *, scored: bool) -> list[EvalSample]:
        """Return all samples, in an order that never changes.

        Args:
            files: what ``--data`` gave.
            scored: whether references are needed; without, files that lack them are fine.

        Raises:
            DataError: files are missing, of another task, or do not fit together.
        """

    def prompt(self, sample: EvalSample, question_prompt: str) -> str:
        """The text after the soft prompts: nothing for a caption, the question in the LLM family's form."""
        return question_prompt.replace("{}", sample.question) if sample.question else ""

    def submission(self, answers: Iterable[tuple[EvalSample, str]]) -> Any:
        """The answers as the task's official server takes them; plain values that json can hold."""
        return [{self.id_key: sample.id, self.answer_key: answer} for sample, answer in answers]
