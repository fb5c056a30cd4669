"""The lengths of a stage's texts, and how many of their labels the limit of length has cut off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vpgtrans_core.data.limit import Limit
from vpgtrans_core.errors import DataError
from vpgtrans_core.llm.text import Text

EARLY = 1000
"""Texts after which a warning can be given; with fewer it is given at the end of the stage."""
ALARMING = 0.02
"""Share of the labels cut that is said before the stage ends."""
STARVED = 0.5
"""Share of the texts with at most one label left, above which a stage does not begin."""
WHOLE = 0.9
"""Share of the texts that the recommended limit leaves whole."""


@dataclass
class Lengths:
    """Counts over all texts of a stage.

    Attributes:
        labels: labels that are left.
        cut: labels that were cut off.
        silent: texts that no label was left of.
        starved: texts that at most one label was left of several: nothing can be learned from them.
        lengths: how many texts have each length, before they are cut.
    """

    labels: int = 0
    cut: int = 0
    silent: int = 0
    starved: int = 0
    lengths: Counter[int] = field(default_factory=Counter)

    def count(self, texts: Iterable[Text]) -> None:
        """Count some more texts."""
        for text in texts:
            labels = text.labels
            self.labels += labels
            self.cut += text.cut
            self.silent += not labels
            self.starved += labels <= 1 and text.cut > 0
            self.lengths[text.whole or text.tokens] += 1

    def add(self, other: Lengths) -> None:
        """Add the counts of another process."""
        self.labels += other.labels
        self.cut += other.cut
        self.silent += other.silent
        self.starved += other.starved
        self.lengths += other.lengths

    @property
    def texts(self) -> int:
        return sum(self.lengths.values())

    @property
    def share(self) -> float:
        """The share of all labels that was cut off."""
        return self.cut / max(1, self.cut + self.labels)

    @property
    def alarming(self) -> bool:
        """Whether enough texts are counted, and enough labels cut, for a warning at once."""
        return self.share >= ALARMING and self.texts >= EARLY

    def check(self, limit: Limit) -> None:
        """Refuse a limit that leaves nothing to learn in most texts.

        Raises:
            DataError: naming the limit that would hold 90 % of the texts.
        """
        if self.starved > STARVED * self.texts:
            raise DataError(
                f"the limit of {limit.tokens()} tokens leaves at most one label in {self.starved} of {self.texts} "
                "texts (the questions alone fill it), so the model would learn nothing",
                limit.leaves(self.length_for(WHOLE), WHOLE),
            )

    def length_for(self, share: float) -> int:
        """The smallest limit that leaves this share of the texts whole; 0 without texts."""
        needed = share * self.texts
        reached = 0
        for length in sorted(self.lengths):
            reached += self.lengths[length]
            if reached >= needed:
                return length
        return 0

    def message(self, limit: Limit) -> str | None:
        """The warning about cut labels, or None if none is cut."""
        if not self.cut:
            return None
        nothing = f" ({self.silent} texts have no label left)" if self.silent else ""
        return (
            f"the limit of {limit.tokens()} tokens (--max-tokens) cuts off {self.cut:,} of "
            f"{self.cut + self.labels:,} labels, {self.share:.1%}{nothing}; "
            f"{self._advice(limit)}"
        )

    def _advice(self, limit: Limit) -> str:
        """A longer limit: the one that leaves most texts whole, or nearly all, or all."""
        share = next((share for share in (WHOLE, 0.99) if self.length_for(share) > limit.tokens()), 1.0)
        return limit.leaves(self.length_for(share), share)

    def describe(self) -> dict[str, Any]:
        """For run.json."""
        return {
            "labels": self.labels,
            "labels_cut": self.cut,
            "texts_without_label": self.silent,
            "tokens_of_90_percent": self.length_for(WHOLE),
        }

    def state_dict(self) -> dict[str, Any]:
        lengths = {str(length): count for length, count in self.lengths.items()}
        return {
            "labels": self.labels,
            "cut": self.cut,
            "silent": self.silent,
            "starved": self.starved,
            "lengths": lengths,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.labels, self.cut, self.silent = state["labels"], state["cut"], state["silent"]
        self.starved = state.get("starved", 0)
        self.lengths = Counter({int(length): count for length, count in state["lengths"].items()})
