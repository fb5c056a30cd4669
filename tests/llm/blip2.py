"""A tiny transformers BLIP-2 around an adapter's LLM, to compare generation with."""

from __future__ import annotations

import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, Blip2VisionConfig

from vpgtrans_core.llm.adapter import LLM, GenerateOptions
from vpgtrans_core.llm.text import ImagePlace

IMAGE_TOKEN = 327


def blip2_texts(llm: LLM, prompt: str, options: GenerateOptions) -> tuple[list[str], list[str]]:
    """Texts of three random images by the adapter and by transformers' `generate`, from the same soft prompts."""
    torch.manual_seed(2)
    vision = Blip2VisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    vision.update({"image_size": 16, "patch_size": 8, "initializer_range": 0.2})
    qformer = Blip2QFormerConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, encoder_hidden_size=16
    )
    config = Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=qformer.to_dict(),
        text_config=llm.model.config.to_dict(),
        num_query_tokens=4,
        image_token_index=IMAGE_TOKEN,
    )
    model = Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4)
    model.language_model.load_state_dict(llm.model.state_dict())
    pixels = torch.randn(3, 3, 16, 16) * 3
    with torch.no_grad():
        features = model.vision_model(pixels).last_hidden_state
        outputs = model.qformer(
            query_embeds=model.query_tokens.expand(3, -1, -1), encoder_hidden_states=features
        ).last_hidden_state
        soft_prompts = model.language_projection(outputs)
    pieces = llm.text.prompt_text(prompt).pieces
    row = [i for piece in pieces for i in ([IMAGE_TOKEN] * 4 if isinstance(piece, ImagePlace) else piece.ids)]
    ids = torch.tensor([row] * 3)
    generated = model.generate(pixel_values=pixels, input_ids=ids, generation_config=llm.generation_arguments(options))
    if not llm.model.config.is_encoder_decoder:
        generated = generated[:, ids.shape[1] :] if generated.shape[1] > ids.shape[1] else generated
    return llm.generate(soft_prompts, prompt, options), llm.decode(generated)
