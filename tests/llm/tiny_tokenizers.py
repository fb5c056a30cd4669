"""Tiny tokenizers in the manner of the families, and one without any special token."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = (
    "a red circle above the blue square on left of green star and two small shapes one large there is nothing "
    "question: what colour is it? answer: yes no a dog runs in park with its owner"
)


def byte_level(start: str | None = "</s>") -> PreTrainedTokenizerFast:
    """As OPT's: byte-level BPE; `start` is put before a text (None: nothing, as in Qwen or GPT-NeoX)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [WORDS],
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if start:
        _add_start(tokenizer, start)
    more = {"bos_token": start, "pad_token": "<pad>"} if start else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", **more)


def metaspace(padding: bool = False) -> PreTrainedTokenizerFast:
    """As LLaMA's: BPE over '▁' pieces with bytes as fallback; no padding token unless asked for."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    tokenizer.train_from_iterator(
        WORDS.split(), trainers.BpeTrainer(vocab_size=340, special_tokens=specials, show_progress=False)
    )
    tokenizer = _without_special_bytes(tokenizer)
    _add_start(tokenizer, "<s>")
    more = {"pad_token": "<unk>"} if padding else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **more
    )


def unigram() -> PreTrainedTokenizerFast:
    """As T5's: unigram pieces, white space folded, '</s>' after every text, no start token."""
    pieces = sorted({"▁" + word for word in WORDS.split()})
    letters = sorted({*WORDS.replace(" ", ""), "▁"})
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((p, -2.0) for p in pieces), *((c, -8.0) for c in letters)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Replace("\n", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


def _add_start(tokenizer: Tokenizer, start: str) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
    )


def _without_special_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """Byte pieces are ordinary tokens: a special one would be left out of decoded text."""
    import json

    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))
