"""What every adapter of a transformers LLM shares: loading, word embeddings, masks, head, the end of a text."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vpgtrans_core.cards import LLMFamily
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.adapter import LLM, GenerateOptions
from vpgtrans_core.llm.blocks import compile_blocks
from vpgtrans_core.llm.loading import load_model, load_tokenizer
from vpgtrans_core.llm.loss import Head
from vpgtrans_core.llm.text import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class FrozenLLM(LLM):
    """A frozen transformers model with its tokenizer: the common part of decoder-only and encoder-decoder adapters.

    A family overrides `prepare` for what must change in the model before it is used.

    Args:
        model: the model with its head; it is frozen in place.
        tokenizer: its tokenizer.
        family: the family's description.
        share: False forces padded rows, one caption each.
    """

    keep_precise: tuple[str, ...] | None = None
    """Names of linear layers that quantisation must leave alone; None for transformers' own choice."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, family: LLMFamily, share: bool = True
    ) -> None:
        self.family = family
        self.tokenizer = tokenizer
        self.model = self.prepare(model)
        self._check_embeddings()
        self.freeze()
        self.text = self.text_encoder()
        self.head = self._make_head()
        self.shares_prefix = self.may_share() and share

    @classmethod
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
    ) -> FrozenLLM:
        tokenizer = load_tokenizer(folder, trust_remote_code)
        if model is None:
            model = load_model(
                folder,
                cls.auto_class(),
                dtype=dtype,
                device=device,
                quantization=quantization,
                keep_precise=cls.keep_precise,
                trust_remote_code=trust_remote_code,
            )
        return cls(model, tokenizer, family, share)

    @classmethod
    @abstractmethod
    def auto_class(cls) -> Any:
        """The transformers Auto class that loads the family's models."""

    @abstractmethod
    def text_encoder(self) -> TextEncoder:
        """The encoder of captions for the data workers."""

    @abstractmethod
    def trunk_name(self) -> str:
        """The name of the child module whose output the head reads."""

    @classmethod
    def prepare(cls, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model as it will be used and saved; a family removes here what stands between its embedding
        table and its first block. The plan of a run prepares a model without weights (on the meta device)."""
        return model

    def may_share(self) -> bool:
        """Whether the model's attention allows several texts in one row."""
        return True

    @property
    def embedding_size(self) -> int:
        return self._table.shape[1]

    @property
    def vocab_size(self) -> int:
        """Rows of the word embedding table."""
        return self._table.shape[0]

    @property
    def _table(self) -> Tensor:
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def compile(self) -> None:
        compile_blocks(self.model, self.trunks())

    def trunks(self) -> list[nn.Module]:
        """The parts that training calls; the whole model's own forward it does not call."""
        return [getattr(self.model, self.trunk_name())]

    def freeze(self) -> None:
        super().freeze()
        # A family whose kernels know no boolean mask must not be given one: eager attention would add True as 1.
        self.bool_masks = self.model.config._attn_implementation == "sdpa"

    def attention(self, mask: Tensor) -> Tensor:
        """A bool mask (True = attend) in the form that the model's attention reads."""
        if self.bool_masks:
            return mask
        dtype = self.model.dtype
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)

    def prompted(self, soft_prompts: Tensor, prompt: str | Sequence[str]) -> Tensor:
        """Soft prompts ``[B, Q, D]`` and after them the prompt's words, as embeddings ``[B, Q + L, D]``.

        Args:
            prompt: one text for all images, or one an image, all of the same number of tokens.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        ids = torch.tensor([self.text.prompt_ids(p) for p in prompts], dtype=torch.long, device=soft_prompts.device)
        words = self.embed(ids).expand(len(soft_prompts), -1, -1)
        return torch.cat([soft_prompts.to(words.dtype), words], dim=1)

    def decode(self, ids: Tensor) -> list[str]:
        """Generated ids ``[B, T]`` as texts: one line each, without special tokens."""
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip().split("\n")[0].strip() for text in texts]

    def generation_arguments(self, options: GenerateOptions | None) -> Any:
        """transformers' generation config: the options and the family's tokens, none of the folder's own defaults."""
        from transformers import GenerationConfig

        options = options or GenerateOptions()
        return GenerationConfig(
            num_beams=options.num_beams,
            max_new_tokens=options.max_new_tokens,
            min_new_tokens=options.min_new_tokens,
            length_penalty=options.length_penalty if options.num_beams > 1 else None,
            do_sample=False,
            **self.generation_settings(),
        )

    def _make_head(self) -> Head:
        """The model's own forward around its trunk: whatever it does to hidden states (head, scale, softcap)."""
        shell = copy.copy(self.model)
        shell.__dict__.pop("forward", None)  # a hook's wrapper is bound to the whole model
        shell.__dict__["_modules"] = dict(self.model._modules)
        name = self.trunk_name()
        shell._modules[name] = _PassThrough(getattr(self.model, name))

        def head(hidden: Tensor) -> Tensor:
            return self.run_head(shell, hidden[None]).squeeze(0)

        return head

    @abstractmethod
    def run_head(self, shell: nn.Module, hidden: Tensor) -> Tensor:
        """Logits ``[1, N, V]`` from a model whose trunk returns the ``[1, N, D]`` that it is given."""

    def _check_embeddings(self) -> None:
        try:
            weight = self.model.get_input_embeddings().weight
            head = self.model.get_output_embeddings()
        except (AttributeError, NotImplementedError) as error:
            weight, head = None, None
            cause: Exception | None = error
        else:
            cause = None
        if not isinstance(weight, Tensor) or weight.ndim != 2 or head is None:
            raise ModelError(
                f"{type(self.model).__name__} gives no access to its word embeddings or its head",
                "a plugin for this family can provide it: see docs/plugins.md",
            ) from cause
        if self.tokenizer.vocab_size > weight.shape[0]:
            raise ModelError(
                f"the tokenizer knows {self.tokenizer.vocab_size} tokens, the model embeds {weight.shape[0]}",
                "the tokenizer belongs to another model",
            )


class _Hidden(tuple):
    """A base model's output that holds hidden states alone: every other field is None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[0] if name == "last_hidden_state" else None


class _PassThrough(nn.Module):
    """Stands for a trunk and returns the states that it is given; other things that the head asks it are the trunk's
    (Falcon-H1's factor before the head)."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.__dict__["trunk"] = trunk  # not as a child: whoever walks over the shell shall not meet it

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["trunk"], name)

    @property
    def decoder(self) -> _PassThrough:
        """Some classes call their base model's decoder, not the base model."""
        return self

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> _Hidden:
        return _Hidden((inputs_embeds,))


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends a caption: the line break, as in the paper's code; the end of text where a tokenizer has none.

    Raises:
        ModelError: the tokenizer has neither.
    """
    plain = tokenizer("a", add_special_tokens=False).input_ids
    broken = tokenizer("a\n", add_special_tokens=False).input_ids
    if len(broken) == len(plain) + 1 and broken[:-1] == plain and broken[-1] != tokenizer.unk_token_id:
        return broken[-1]
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has neither a line break nor an end token", "set eos_token in its tokenizer_config.json"
        )
    return tokenizer.eos_token_id


def start_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The beginning-of-text token that the tokenizer itself puts before a text; many put none."""
    plain = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    return (whole[0],) if whole[:1] != plain[:1] and whole[0] == tokenizer.bos_token_id else ()
