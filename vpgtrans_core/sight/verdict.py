"""The verdict on a model: does it see, has it learned, does it babble. The one place where that is decided.

The rules, on held-out images (losses in nats a token):

- *sees* is the loss with exchanged pictures minus the loss with the right ones.
- **blind**: sees is below `BLIND`, or below `BLIND_SHARE` of what the source sees.
- **source blind**: the source itself sees less than `BLIND`.
- **not learned**: training took steps, and the loss is not `FALLEN` below that of before the first step, unless it is
  as low as the source's own.
- **above text-only**: the loss is higher than the LLM's without any picture.
- **empty, constant, repetition, script, markup**: more than half of the captions are so, see `babble.faults`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vpgtrans_core.sight.babble import faults

BLIND = 0.03
"""Nats a token that a model which sees gains at least from the right pictures."""
BLIND_SHARE = 0.1
"""The share of what the source sees that a model which sees sees at least."""
FALLEN = 0.01
"""The share of its first value by which a loss must fall to have fallen."""
TRAIN_LONGER = "it has not learned to see yet; train longer"
AT_CHANCE = "the LLM itself predicts captions at chance, which no training of a VPG changes; check its weights"


@dataclass(frozen=True)
class Losses:
    """Losses on held-out texts, in nats a token of the target LLM; None where they were not measured.

    Attributes:
        first, loss: before the first step, and now.
        own, exchanged: with the right pictures and with exchanged ones, on the same texts.
        text_only: without any picture.
        source: the source's own loss; `source_sees`: what exchanging pictures adds to it.
    """

    first: float | None = None
    loss: float | None = None
    own: float | None = None
    exchanged: float | None = None
    text_only: float | None = None
    source: float | None = None
    source_sees: float | None = None

    @property
    def sees(self) -> float | None:
        return None if self.own is None or self.exchanged is None else self.exchanged - self.own

    def record(self) -> dict[str, Any]:
        """Plain numbers, without what was not measured."""
        values = {**asdict(self), "sees": self.sees}
        return {name: value for name, value in values.items() if value is not None}

    def as_lines(self) -> dict[str, float]:
        """The losses to stay between, for the metrics."""
        values = {"text_only_loss": self.text_only, "source_loss": self.source}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Problem:
    """Something wrong with a model: its kind, as in the rules above, and the same in words."""

    kind: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a model: a sentence on what it sees (empty if that was not measured), and problems."""

    sentence: str
    problems: tuple[Problem, ...] = ()
    advice: str = ""

    @property
    def warnings(self) -> list[str]:
        """The problems for the user; the last one ends with what to do."""
        texts = [f"the new model: {problem.text}" for problem in self.problems]
        return [*texts[:-1], f"{texts[-1]}: {self.advice}"] if texts else []

    def record(self) -> dict[str, Any]:
        return {"sentence": self.sentence, "problems": [asdict(p) for p in self.problems], "advice": self.advice}


def sentence(losses: Losses) -> str:
    """``"sees: 0.41 nats of 1.20 that the source sees"``."""
    if losses.sees is None:
        return ""
    if losses.source_sees is not None:
        return f"sees: {losses.sees:.2f} nats of {losses.source_sees:.2f} that the source sees"
    return f"sees: {losses.sees:.2f} nats a token"


def judge(
    losses: Losses, said: Sequence[str] = (), captions: Sequence[str] = (), *, steps: int = 0, at_chance: bool = False
) -> Verdict:
    """Judge a model.

    Args:
        said, captions: what it says of some images, and one caption of each.
        steps: how many it was trained for.
        at_chance: whether its LLM predicts captions at chance.
    """
    problems = [*_blindness(losses), *_learning(losses, steps)]
    problems += [Problem(kind, text) for kind, text in faults(said, captions).items()]
    advice = (AT_CHANCE if at_chance else TRAIN_LONGER) if problems else ""
    return Verdict(sentence(losses), tuple(problems), advice)


def _blindness(losses: Losses) -> list[Problem]:
    sees, source = losses.sees, losses.source_sees
    problems = []
    if sees is not None and (sees < BLIND or (source is not None and sees < BLIND_SHARE * source)):
        problems.append(Problem("blind", f"it is blind: other pictures change its loss by {sees:.2f} nats a token"))
    if source is not None and source < BLIND:
        text = f"its source is blind: other pictures change its loss by {source:.2f} nats a token"
        problems.append(Problem("source blind", text))
    return problems


def _learning(losses: Losses, steps: int) -> list[Problem]:
    loss, problems = losses.loss, []
    if loss is None:
        return []
    good = losses.source is not None and loss <= losses.source
    if steps and losses.first is not None and not good and loss > (1 - FALLEN) * losses.first:
        problems.append(
            Problem(
                "not learned", f"its held-out loss did not fall: {losses.first:.2f} before training, now {loss:.2f}"
            )
        )
    if losses.text_only is not None and loss > losses.text_only:
        text = f"its held-out loss, {loss:.2f}, is above the {losses.text_only:.2f} of its LLM without any picture"
        problems.append(Problem("above text-only", text))
    return problems
