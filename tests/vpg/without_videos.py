"""What ``LlavaOnevisionProcessor`` and ``InternVLProcessor`` do with one picture, from their own parts: the whole
classes are made with torchvision alone, because they read videos, too."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from transformers import AutoTokenizer, InternVLProcessor, LlavaOnevisionProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil


class _Processor:
    """Of a folder: its tokenizer, its image processor, and what it says of itself."""

    def __init__(self, folder: str | Path, images) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.images = images.from_pretrained(folder)
        self.batch_decode = self.tokenizer.batch_decode
        self.said = json.loads((Path(folder) / "processor_config.json").read_text())

    def apply_chat_template(self, messages, **options):
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **options)


class OnevisionProcessor(_Processor):
    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, LlavaOnevisionImageProcessorPil)
        self._own = SimpleNamespace(image_processor=self.images, **self.said)
        self._own._get_unpadded_features = lambda *sizes: LlavaOnevisionProcessor._get_unpadded_features(
            self._own, *sizes
        )

    def tokens(self, picture) -> int:
        side = self.images.size["height"]
        return LlavaOnevisionProcessor._get_number_of_features(self._own, picture.height, picture.width, side, side)

    def __call__(self, images, text, **options):
        text = text.replace("<image>", "<image>" * self.tokens(images))
        return {**self.tokenizer(text, **options), **self.images(images, return_tensors="pt")}


class TiledInternVLProcessor(_Processor):
    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, GotOcr2ImageProcessorPil)
        own = self.tokenizer
        self._own = SimpleNamespace(
            start_image_token=own.start_image_token,
            end_image_token=own.end_image_token,
            image_token=own.context_image_token,
            image_seq_length=self.said["image_seq_length"],
        )

    def replacement(self, picture) -> str:
        """What stands in the text in the place of a picture."""
        given = self.images(picture, crop_to_patches=True)
        return InternVLProcessor.replace_image_token(self._own, given, 0)

    def __call__(self, images, text, **options):
        given = self.images(images, crop_to_patches=True, return_tensors="pt")
        del given["num_patches"]
        return {**self.tokenizer(text.replace("<image>", self.replacement(images)), **options), **given}


PROCESSORS = {"LlavaOnevisionProcessor": OnevisionProcessor, "InternVLProcessor": TiledInternVLProcessor}
