"""What every adapter of a transformers LLM shares: loading, word embeddings, masks, head, the end of a text."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from vpgtrans_core.cards import LLMFamily
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.adapter import LLM, GenerateOptions
from vpgtrans_core.llm.blocks import compile_blocks
from vpgtrans_core.llm.elements import images_of_samples, line_of
from vpgtrans_core.llm.head import head_of, read_in_order
from vpgtrans_core.llm.loading import load_model, load_tokenizer
from vpgtrans_core.llm.sampling import GivenDraws, Sampled
from vpgtrans_core.llm.shards import Shards
from vpgtrans_core.llm.shown import Elements, Images, Prompts, flat, positions_of_some, shown_in
from vpgtrans_core.llm.sizes import EXACT, ROUNDED, Sizes
from vpgtrans_core.llm.streaming import GrowingText, StopWhen
from vpgtrans_core.llm.text import Piece, Text, TextEncoder, length
from vpgtrans_core.llm.vocabulary import check_ids, check_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")


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
    bool_kernels: tuple[str, ...] = ("sdpa",)
    """transformers' names of the attention kernels that read boolean masks."""
    sizes: Sizes = EXACT
    """Of the rows that `layout` makes."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, family: LLMFamily, share: bool = True
    ) -> None:
        self.family = family
        self.tokenizer = tokenizer
        self.model = self.prepare(model)
        self._check_embeddings()
        self.freeze()
        self.text = self.text_encoder()
        read_in_order(self.model.get_output_embeddings())
        self.head = head_of(self.model, self.trunk_name(), self.run_head)
        self.shards = Shards.of(self.model)
        if self.shards is not None:
            self.shards.watch(self.trunks())
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
        """The encoder of texts for the data workers; made from the tokenizer alone."""

    @classmethod
    def text_encoder_of(cls, tokenizer: PreTrainedTokenizerBase, family: LLMFamily) -> TextEncoder:
        """The encoder of texts, where no model is loaded."""
        without_model = cls.__new__(cls)
        without_model.tokenizer, without_model.family = tokenizer, family
        return without_model.text_encoder()

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
        return self.model.get_input_embeddings()(ids).to(ids.device)

    def check_ids(self, texts: Iterable[Text]) -> None:
        """Check that the embedding table has a row for every token of some texts; a tokenizer may have more tokens.

        Raises:
            ModelError: it has not; names the token.
        """
        check_ids(texts, self.tokenizer, self.vocab_size)

    def check_words(self, texts: Iterable[bytes]) -> None:
        check_tokens(texts, self.tokenizer, self.vocab_size)

    def compile(self) -> None:
        compile_blocks(self.model, self.trunks())

    def round_rows(self) -> None:
        self.sizes = ROUNDED

    def trunks(self) -> list[nn.Module]:
        """The parts that training calls; the whole model's own forward it does not call."""
        return [getattr(self.model, self.trunk_name())]

    def freeze(self) -> None:
        super().freeze()
        # A family whose kernels know no boolean mask must not be given one: eager attention would add True as 1.
        self.bool_masks = self.model.config._attn_implementation in self.bool_kernels

    def attention(self, mask: Tensor) -> Tensor:
        """A bool mask (True = attend) in the form that the model's attention reads."""
        if self.bool_masks:
            return mask
        dtype = self.model.dtype
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)

    @torch.no_grad()
    def generate(
        self,
        soft_prompts: Prompts,
        prompt: str | Text | Sequence[str | Text] = "",
        options: GenerateOptions | None = None,
        images: Sequence[int] = (),
    ) -> list[str]:
        captioning = not isinstance(prompt, Text) and all(isinstance(part, str) for part in prompt)
        arguments = self.generation_arguments(options)
        prompts = self._prompts(prompt, len(soft_prompts), len(images))
        self.check_ids(prompts)
        end = next((text.end for text in prompts if text.end), "")
        if not captioning:
            self._end_answers(arguments, end)
        counts = images or [1 if captioning else text.images for text in prompts]
        if sum(counts) != len(soft_prompts):
            raise ValueError(f"the prompts need {sum(counts)} images, but there are {len(soft_prompts)}")
        answers: dict[int, str] = {}
        ranges, shown = images_of_samples(len(prompts), counts), shown_in(soft_prompts)
        for numbers, read, said in self._in_step(list(self._alike(prompts, counts, shown))):
            own = self._within_room(arguments, prompts[numbers[0]], positions_of_some(shown, ranges[numbers[0]]))
            ids = self._continue(read.to(soft_prompts.device), said.to(soft_prompts.device), soft_prompts, own)
            answers |= zip(numbers, self.decode(ids, one_line=captioning, end=end), strict=True)
        return [answers[number] for number in sorted(answers)]

    def join_generation(self) -> None:
        for _ in self._in_step([]):
            pass

    def _in_step(self, groups: list[T]) -> Iterator[T]:
        """These groups, for each of which something is generated. Where the LLM is in shards every process generates
        equally often: one with fewer groups generates a token for nothing in between."""
        missing = 0 if self.shards is None else self.shards.lockstep.most(len(groups)) - len(groups)
        yield from groups
        for _ in range(missing):
            nothing = torch.zeros(1, 1, self.embedding_size, dtype=self.model.dtype, device=self.model.device)
            arguments = self.generation_arguments(GenerateOptions(num_beams=1, max_new_tokens=1, min_new_tokens=1))
            ((_, read, said),) = self._alike([self.text.prompt_text("")], [1], 1)
            self._continue(read.to(nothing.device), said.to(nothing.device), nothing, arguments)

    @torch.no_grad()
    def stream(
        self,
        soft_prompts: Prompts,
        prompt: Text,
        options: GenerateOptions | None = None,
        *,
        tell: Callable[[str], None],
        stopped: Callable[[], bool],
    ) -> str:
        self.check_ids([prompt])
        arguments = self.generation_arguments(options)
        self._end_answers(arguments, prompt.end)
        said = GrowingText(self.tokenizer, prompt.end, tell)
        watch: dict[str, Any] = {"stopping_criteria": [StopWhen(stopped)]}
        if arguments.num_beams == 1:
            watch["streamer"] = said
        ((_, read, before),) = self._alike([prompt], [len(soft_prompts)], shown_in(soft_prompts))
        device = soft_prompts.device
        ids = self._continue(read.to(device), before.to(device), soft_prompts, arguments, **watch)
        return self.decode(ids, one_line=False, end=prompt.end)[0]

    def _within_room(self, arguments: Any, prompt: Text, num_prompts: int | Sequence[int]) -> Any:
        """The arguments, with no more new tokens than the LLM has positions for after a prompt.

        Raises:
            ModelError: it has none.
        """
        room = self.room(prompt, num_prompts)
        if room is None or room >= arguments.max_new_tokens:
            return arguments
        if room < 1:
            taken = length(prompt.pieces, num_prompts)
            raise ModelError(
                f"a prompt takes {taken} positions with its images, and the language model has none left to answer at",
                "give a shorter prompt, or fewer images",
            )
        fitting = copy.copy(arguments)
        fitting.max_new_tokens, fitting.min_new_tokens = room, min(room, arguments.min_new_tokens)
        return fitting

    def _prompts(self, prompt: str | Text | Sequence[str | Text], images: int, samples: int) -> list[Text]:
        """One text for each sample; where their number is not given (0), it follows from that of the images."""
        if isinstance(prompt, str):
            prompt = self.text.prompt_text(prompt)
        if isinstance(prompt, Text):
            return [prompt] * (samples or images // max(1, prompt.images))
        return [self.text.prompt_text(part) if isinstance(part, str) else part for part in prompt]

    def _alike(
        self, prompts: list[Text], counts: Sequence[int], num_prompts: Images
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """The prompts of one length at a time, so that none is padded: their numbers, and the elements ``[B, L]`` that
        are read and ``[B, M]`` that the decoder of an encoder-decoder has said already."""
        alike: dict[tuple[int, int], list[tuple[int, list[int], list[int]]]] = {}
        shown = Elements(num_prompts)
        for number, images in enumerate(images_of_samples(len(prompts), counts)):
            read, said = (line_of(part, images, shown).elements for part in self.read_and_said(prompts[number]))
            alike.setdefault((len(read), len(said)), []).append((number, read, said))
        for group in alike.values():
            read_rows, said_rows = ([row[part] for row in group] for part in (1, 2))
            yield [row[0] for row in group], torch.tensor(read_rows), torch.tensor(said_rows, dtype=torch.long)

    @torch.no_grad()
    def sample(self, soft_prompts: Prompts, draws: Tensor, temperature: float) -> list[Sampled]:
        options = GenerateOptions(num_beams=1, min_new_tokens=1, max_new_tokens=draws.shape[1])
        arguments = self.generation_arguments(options)
        count = len(soft_prompts)
        prompts = [self.text.prompt_text("")] * count
        device = soft_prompts.device
        ends = torch.tensor(arguments.eos_token_id, device=device)
        sampled: dict[int, Sampled] = {}
        for numbers, read, said in self._in_step(list(self._alike(prompts, [1] * count, shown_in(soft_prompts)))):
            chooser = GivenDraws(temperature, draws[numbers].to(device))
            ids = self._continue(read.to(device), said.to(device), soft_prompts, arguments, logits_processor=[chooser])
            ended = torch.isin(ids, ends).any(1).tolist()
            sampled |= zip(numbers, map(Sampled, self.decode(ids), ended), strict=True)
        return [sampled[number] for number in range(count)]

    def _continue(self, read: Tensor, said: Tensor, soft_prompts: Prompts, arguments: Any, **more: Any) -> Tensor:
        """New token ids ``[B, T]`` after elements ``[B, L]``, and after what the decoder has said, ``[B, M]``; `more`
        is for transformers' ``generate``."""
        inputs = self.embed(read.clamp_min(0))
        if len(soft_prompts):
            prompts = flat(soft_prompts).to(inputs.dtype)[-1 - read.clamp_max(-1)]
            inputs = torch.where((read < 0)[..., None], prompts, inputs)
        if arguments.stop_strings:
            more["tokenizer"] = self.tokenizer
        if said.shape[1]:
            start = torch.full_like(said[:, :1], arguments.decoder_start_token_id)
            more["decoder_input_ids"] = torch.cat([start, said], dim=1)
        if self.shards is not None:
            more["synced_gpus"] = True  # each token is a pass, and no process may stop before the others
        model: Any = self.model
        ids = model.generate(
            inputs_embeds=inputs,
            attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device),
            generation_config=arguments,
            **more,
        )
        return ids[:, 1 + said.shape[1] :] if said.shape[1] else ids

    def read_and_said(self, prompt: Text) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
        """What of a prompt is read, and what counts as said already: nothing but in an encoder-decoder."""
        return prompt.pieces, ()

    def _end_answers(self, arguments: Any, end: str) -> None:
        """Let generation stop at the end of text, and at a template's `end`: a token, or a text of several."""
        arguments.eos_token_id = self.answer_ends(end)
        if end and len(arguments.eos_token_id) == 1 and end != self.tokenizer.eos_token:
            arguments.stop_strings = [end]

    def answer_ends(self, end: str) -> list[int]:
        ids = self.tokenizer(end, add_special_tokens=False).input_ids if end else []
        single = len(ids) == 1 and ids[0] in self.tokenizer.added_tokens_decoder
        return list(dict.fromkeys([*(ids if single else []), self.text.answer_end]))

    def decode(self, ids: Tensor, one_line: bool = True, end: str = "") -> list[str]:
        """Generated ids ``[B, T]`` as texts without special tokens; `one_line` ends them at the line break, as captions
        end, `end` where an answer's end is written."""
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        texts = [text.split(end)[0] if end else text for text in texts]
        return [(text.strip().split("\n")[0] if one_line else text).strip() for text in texts]

    def generation_arguments(self, options: GenerateOptions | None) -> Any:
        """transformers' generation config: the options and the family's tokens, none of the folder's own defaults."""
        from transformers import GenerationConfig

        options = options or GenerateOptions()
        return GenerationConfig(
            num_beams=options.num_beams,
            max_new_tokens=options.max_new_tokens,
            min_new_tokens=options.min_new_tokens,
            length_penalty=options.length_penalty if options.num_beams > 1 else None,
            do_sample=options.temperature > 0,
            temperature=float(options.temperature) or None,
            **self.generation_settings(),
        )

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
                f"vpgt cannot reach the word embeddings or the head of {type(self.model).__name__}",
                "a plugin for this family can provide them: see docs/plugins.md",
            ) from cause


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
