"""The frozen language model at work: what every family's adapter gives to the core."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vpgtrans_core.cards import LLMFamily
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.blocks import checkpoint_blocks, compile_blocks
from vpgtrans_core.llm.shown import Images, Prompts
from vpgtrans_core.llm.text import Text, TextEncoder, length

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from vpgtrans_core.llm.sampling import Sampled
    from vpgtrans_core.llm.shards import Shards


@dataclass(frozen=True)
class GenerateOptions:
    """How captions and answers are generated; the defaults are the paper's for captions.

    Attributes:
        temperature: 0 for the most likely words; above 0 words are drawn at random, and more freely the higher it is.
    """

    num_beams: int = 5
    max_new_tokens: int = 30
    min_new_tokens: int = 8
    length_penalty: float = 1.0
    temperature: float = 0.0


class Rows(ABC):
    """A laid-out batch of texts, made by `LLM.layout` on the CPU and read by `LLM.loss`."""

    labels: int
    """How many tokens carry a label; the loss is a sum over them."""
    positions: int
    """How many positions the LLM computes, padding included: the measure of work and memory."""

    @abstractmethod
    def to(self, device: torch.device) -> Rows:
        """Move every tensor to `device` (non-blocking from pinned memory)."""

    def pin_memory(self) -> Rows:
        """Copy every tensor to page-locked memory, from which a GPU reads while it computes; by default none."""
        return self


class LLM(ABC):
    """A frozen LLM with its tokenizer.

    The space of the soft prompts is that of the LLM's first block: what `embed` returns and what `inputs_embeds`
    means to `self.model`. An adapter whose model has anything between its embedding table and its first block
    (OPT-350m's `project_in`) removes that difference when it loads.

    Attributes:
        model: the transformers model; all parameters frozen, in evaluation mode.
        tokenizer: its tokenizer.
        family: the family's description.
        text: the encoder of captions and conversations for the data workers.
        shares_prefix: whether the captions of one image share its visual prefix in one row (tree mask).
        shards: how the processes run it together, where each holds a part of it; None where it is whole.
        whole: loads the whole model on the CPU, where `model` holds a part of it; None where it is whole.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: LLMFamily
    text: TextEncoder
    shares_prefix: bool
    shards: Shards | None = None
    whole: Callable[[], PreTrainedModel] | None = None

    @classmethod
    @abstractmethod
    def load(
        cls,
        folder: str | Path,
        *,
        family: LLMFamily,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        model: PreTrainedModel | None = None,
        share: bool = True,
        quantization: str | None = None,
        trust_remote_code: bool = False,
    ) -> LLM:
        """Load a transformers folder (config, safetensors, tokenizer) frozen.

        `model` gives an already built model instead of the folder's weights (used with a VL-LLM's folder and with
        tests). `share=False` forces padded rows, one caption each. `quantization` is None, ``"8bit"`` or ``"4bit"``.

        Raises:
            ModelError: the folder's weights do not fit its config, or the model gives no access to its embeddings.
        """

    @property
    @abstractmethod
    def embedding_size(self) -> int:
        """The width D of the first block's input: the projector's output size."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Word embeddings ``[..., D]`` of token ids ``[...]`` as the LLM's first block sees them (before positions)."""

    @abstractmethod
    def layout(self, texts: Sequence[Sequence[Text]], num_prompts: Images, images: Sequence[int] = ()) -> Rows:
        """Lay out texts as rows, on the CPU: it must not touch the model's weights.

        Args:
            texts: the texts of each sample; their image places count the sample's own images.
            num_prompts: soft prompts an image, or what stands in the place of each image of the batch.
            images: how many images each sample has; empty for one each.

        Raises:
            ValueError: a text has an image or a label where the LLM can have none.
        """

    def check_words(self, texts: Iterable[bytes]) -> None:  # noqa: B027 - an LLM may embed whatever it is given
        """Check before training that the LLM has an embedding of what is written in a data set.

        Args:
            texts: UTF-8, many texts in each.

        Raises:
            ModelError: it has not; names the token.
        """

    def positions(self, texts: Sequence[Text], num_prompts: int | Sequence[int]) -> int:
        """Positions that one sample's texts need at most, before packing: a measure of memory to cut batches by.

        Args:
            num_prompts: positions that an image takes, or those of each of the sample's images.
        """
        beginnings = [text.pieces[: n + 1] for text in texts for n in text.image_places]
        prefixes = set(beginnings) if self.shares_prefix else beginnings
        return sum(length(pieces[-1:], num_prompts) for pieces in prefixes) + sum(text.tokens for text in texts)

    @abstractmethod
    def loss(self, soft_prompts: Prompts, rows: Rows) -> Tensor:
        """Sum of the cross-entropies over all labels, a scalar in fp32, differentiable in `soft_prompts`.

        Args:
            soft_prompts: ``[I, Q, D]``, one set an image: those of the first sample, of the second, and so on; or as
                many of each image as it has.
            rows: what `layout` made of the samples' texts, on the model's device.
        """

    @abstractmethod
    def generate(
        self,
        soft_prompts: Prompts,
        prompt: str | Text | Sequence[str | Text] = "",
        options: GenerateOptions | None = None,
        images: Sequence[int] = (),
    ) -> list[str]:
        """Generate one text a sample; beam search as in the paper.

        Args:
            soft_prompts: ``[I, Q, D]``, those of the first sample, of the second, and so on.
            prompt: one for all, or one a sample. A string stands behind the sample's (first) image and is continued by
                a caption of one line; a `Text` is continued by an answer, and its labels do not matter.
            options: how; default as the paper's captions.
            images: how many images each sample has; default one, or as many as its text asks.

        Raises:
            ValueError: the samples have more or fewer images than there are soft prompts for.
        """

    def sample(self, soft_prompts: Prompts, draws: Tensor, temperature: float) -> list[Sampled]:
        """Sample one caption an image.

        Args:
            soft_prompts: ``[B, Q, D]``.
            draws: a random number from [0, 1) for each token, ``[B, T]``: a caption depends on its own numbers alone,
                and has at most T tokens.
            temperature: of the distribution that is sampled from; 0 takes the likeliest tokens.

        Raises:
            ModelError: the adapter cannot sample.
        """
        raise ModelError(f"{type(self).__name__} cannot sample", "its adapter can derive from `DecoderOnlyLLM`")

    def stream(
        self,
        soft_prompts: Prompts,
        prompt: Text,
        options: GenerateOptions | None = None,
        *,
        tell: Callable[[str], None],
        stopped: Callable[[], bool],
    ) -> str:
        """Generate one answer and tell of it while it grows.

        Args:
            soft_prompts: ``[I, Q, D]``, of the images that the prompt shows; none where it shows none.
            prompt: what the answer follows.
            options: how; beam search tells nothing before its end.
            tell: called with the answer so far.
            stopped: asked after each token; true ends the answer there.

        Returns:
            The whole answer, or as much of it as there was when it was stopped.
        """
        answer = self.generate(soft_prompts, [prompt], options, [len(soft_prompts)])[0]
        tell(answer)
        return answer

    def join_generation(self) -> None:  # noqa: B027 - an LLM that is not in shards has nothing to do
        """Take part in what other processes generate with an LLM in shards, and generate nothing: they cannot without
        this one."""

    def answer_ends(self, end: str) -> list[int]:
        """The tokens that end an answer: the end of text, and a template's `end` where that is one token."""
        return [self.text.answer_end]

    def room(self, prompt: Text, num_prompts: int | Sequence[int]) -> int | None:
        """How many tokens may follow a prompt until the LLM's positions end; below 0 for a prompt that is too long
        itself, None where there is no end."""
        return None

    @abstractmethod
    def generation_settings(self) -> dict[str, Any]:
        """transformers' generation config fields for the saved folder: end token(s), BOS, padding, decoder start."""

    def checkpoint_activations(self) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        checkpoint_blocks(self.model)

    def compile(self) -> None:
        """``torch.compile`` what training runs."""
        compile_blocks(self.model, [self.model])

    def round_rows(self) -> None:  # noqa: B027 - an LLM may have rows of the sizes that it likes
        """Round the sizes of rows up from now on, so that a run has few different ones (`vpgtrans_core.llm.sizes`)."""

    def freeze(self) -> None:
        """Freeze every parameter and leave training mode for good: no dropout inside a frozen LLM."""
        self.model.requires_grad_(False)
        self.model.eval()


def trainable_names(module: nn.Module) -> list[str]:
    """Names of the parameters of `module` that require gradients."""
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]
