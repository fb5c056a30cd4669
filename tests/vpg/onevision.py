"""What ``LlavaOnevisionProcessor`` does with one picture, from its own parts: the whole class is made with torchvision
alone, because it reads videos, too."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from transformers import AutoTokenizer, LlavaOnevisionProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil


class Processor:
    """Of a folder."""

    def __init__(self, folder: str | Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.images = LlavaOnevisionImageProcessorPil.from_pretrained(folder)
        self.batch_decode = self.tokenizer.batch_decode
        own = json.loads((Path(folder) / "processor_config.json").read_text())
        assert own["processor_class"] == "LlavaOnevisionProcessor"
        self._own = SimpleNamespace(image_processor=self.images, **own)
        self._own._get_unpadded_features = lambda *sizes: LlavaOnevisionProcessor._get_unpadded_features(
            self._own, *sizes
        )

    def apply_chat_template(self, messages, **options):
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **options)

    def tokens(self, picture) -> int:
        side = self.images.size["height"]
        return LlavaOnevisionProcessor._get_number_of_features(self._own, picture.height, picture.width, side, side)

    def __call__(self, images, text, **options):
        text = text.replace("<image>", "<image>" * self.tokens(images))
        return {**self.tokenizer(text, **options), **self.images(images, return_tensors="pt")}
