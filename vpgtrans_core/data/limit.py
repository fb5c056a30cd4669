"""How long a text may be: by the setting, and by the positions that the LLM has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """A limit of a text's tokens.

    Attributes:
        max_tokens: as the setting of the same name.
        positions: what the LLM has for the tokens of a text and the soft prompts of its images; None without an end.
        num_prompts: soft prompts an image, Q; where pictures are cut into tiles, the fewest that one has.
    """

    max_tokens: int
    positions: int | None = None
    num_prompts: int = 0

    def tokens(self, images: int = 1) -> int:
        """The most tokens of a text that shows so many images; below 1 where the images leave no room."""
        return self.tokens_beside(images * self.num_prompts)

    def tokens_beside(self, taken: int) -> int:
        """The most tokens of a text whose images take so many positions; below 1 where they leave no room."""
        return self.max_tokens if self.positions is None else min(self.max_tokens, self.positions - taken)

    def room(self, images: int = 1) -> int | None:
        """The positions that so many images leave; None without an end."""
        return None if self.positions is None else self.positions - images * self.num_prompts

    def beyond(self, longest: int) -> str | None:
        """What to know where the LLM's positions cut off what the setting would let through; None where they do not.

        `longest` is the length of the longest text.
        """
        room = self.room()
        if room is None or min(longest, self.max_tokens) <= room:
            return None
        return (
            f"--max-tokens {self.max_tokens} is more than the language model can read: of its {self.positions} "
            f"positions {self.num_prompts} hold an image, and texts are cut after {room} tokens"
        )

    def leaves(self, tokens: int, share: float) -> str:
        """How `tokens`, the length of this share of the texts, can be read whole, or that they cannot."""
        room = self.room()
        if room is None or tokens <= room:
            return f"--max-tokens {tokens} leaves {share:.0%} of the texts whole"
        return (
            f"{share:.0%} of the texts have up to {tokens} tokens, and the language model has room for {room} beside "
            "an image: part longer ones"
        )
