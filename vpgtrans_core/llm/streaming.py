"""An answer that is shown while it is generated, and may be stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation import BaseStreamer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HALF = "\ufffd"
"""What a tokenizer writes for a character of which it has only the first bytes."""


class GrowingText(BaseStreamer):
    """Tells of the answer so far after each of its tokens. What may still change is left out: half a character, and
    what may be the beginning of the answer's end.

    Args:
        tokenizer: the LLM's.
        end: what ends an answer, as text; empty for a token that is not shown.
        tell: called with the text, only when it has grown.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end: str, tell: Callable[[str], None]) -> None:
        self.tokenizer, self.end_text, self.tell = tokenizer, end, tell
        self.ids: list[int] = []
        self.told = ""
        self.prompted = False

    def put(self, value: Tensor) -> None:
        """One token; first the prompt, which transformers puts here, too."""
        if not self.prompted:
            self.prompted = True
            return
        self.ids += value.flatten().tolist()
        text = str(self.tokenizer.decode(self.ids, skip_special_tokens=True)).lstrip()
        self._tell(text if HALF not in text[-1:] else text.rstrip(HALF))

    def end(self) -> None:
        """Whoever waits for the answer gets all of it from `generate`."""

    def _tell(self, text: str) -> None:
        if self.end_text:
            text = text.split(self.end_text)[0]
            begun = (n for n in range(len(self.end_text) - 1, 0, -1) if text.endswith(self.end_text[:n]))
            text = text[: len(text) - next(begun, 0)]
        text = text.rstrip()
        if len(text) > len(self.told):
            self.told = text
            self.tell(text)


class StopWhen(StoppingCriteria):
    """Ends generation when a function says so."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self.stopped = stopped

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self.stopped(), dtype=torch.bool, device=input_ids.device)
