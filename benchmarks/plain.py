"""A plain training step in the shape of the paper's code: the yardstick of the other benchmarks.

The VPG runs for every caption, rows are padded, logits are computed at every position and transformers' own modules
give the loss. The same weights as ours, the same mathematics, and none of our code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vpgtrans_core.llm.text import Text
from vpgtrans_core.vlm.model import VLModel

IGNORED = -100


def plain_step(
    model: VLModel, pixels: Tensor, texts: list[list[Text]], *, vpg: str = "caption", parts: int = 1
) -> float:
    """Leave the gradient of the mean loss over all labels in what is trained; return that loss.

    Args:
        model: its stage must be set.
        pixels: ``[I, 3, S, S]``.
        texts: the captions of each image.
        vpg: ``caption`` runs the VPG for each caption, ``image`` once an image, ``outputs`` takes its outputs
            ``[I, Q, D]`` in place of pixels.
        parts: computed one after the other; for a GPU on which the step does not fit at once.
    """
    labels = sum(len(text.target) for image in texts for text in image)
    size = -(-len(texts) // parts)
    loss = 0.0
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        share = sum(len(text.target) for image in part for text in image) / labels
        loss += _part(model, pixels[start : start + size], part, vpg, share)
    return loss


def _part(model: VLModel, pixels: Tensor, texts: list[list[Text]], vpg: str, share: float) -> float:
    images = torch.tensor([i for i, image in enumerate(texts) for _ in image], device=pixels.device)
    flat = [text for image in texts for text in image]
    if vpg == "caption":
        outputs = _vpg(model, pixels[images])
    else:
        outputs = (pixels if vpg == "outputs" else _vpg(model, pixels))[images]
    prompts = model.projector(outputs.to(model.projector.weight.dtype)).to(model.llm.model.dtype)
    step = _encoder_decoder if model.llm.model.config.is_encoder_decoder else _decoder_only
    loss = step(model.llm.model, prompts, flat) * share
    loss.backward()
    return float(loss.detach())


def _vpg(model: VLModel, pixels: Tensor) -> Tensor:
    """ViT and Q-Former by transformers' own forward; LLaVA's VPG as it is."""
    vpg = model.vpg
    if not hasattr(vpg, "qformer"):
        return vpg(pixels)
    with torch.no_grad():
        states = vpg.vision_model.encoder(
            inputs_embeds=vpg.vision_model.embeddings(pixels.to(vpg.vision_model.embeddings.class_embedding.dtype))
        ).last_hidden_state
    norm = vpg.vision_model.post_layernorm
    queries = vpg.query_tokens.expand(len(pixels), -1, -1)
    states = norm(states.to(norm.weight.dtype))
    return vpg.qformer(query_embeds=queries, encoder_hidden_states=states).last_hidden_state.float()


def _decoder_only(llm: torch.nn.Module, prompts: Tensor, texts: list[Text]) -> Tensor:
    """``[soft prompts][text][padding]``, labels on the text."""
    ids, mask = _pad([text.context + text.target for text in texts], prompts.device)
    labels = ids.masked_fill(mask == 0, IGNORED)
    for row, text in enumerate(texts):
        labels[row, : len(text.context)] = IGNORED
    prefix = torch.full(prompts.shape[:2], IGNORED, device=prompts.device)
    inputs = torch.cat([prompts, llm.get_input_embeddings()(ids)], dim=1)
    attention = torch.cat([torch.ones_like(prefix), mask], dim=1)
    return llm(
        inputs_embeds=inputs, attention_mask=attention, labels=torch.cat([prefix, labels], dim=1), use_cache=False
    ).loss


def _encoder_decoder(llm: torch.nn.Module, prompts: Tensor, texts: list[Text]) -> Tensor:
    """``[soft prompts][first part]`` into the encoder, the rest out of the decoder."""
    ids, mask = _pad([text.context for text in texts], prompts.device)
    labels, said = _pad([text.target for text in texts], prompts.device)
    inputs = torch.cat([prompts, llm.get_input_embeddings()(ids)], dim=1)
    attention = torch.cat([torch.ones(prompts.shape[:2], dtype=mask.dtype, device=mask.device), mask], dim=1)
    return llm(
        inputs_embeds=inputs, attention_mask=attention, labels=labels.masked_fill(said == 0, IGNORED), use_cache=False
    ).loss


def _pad(rows: list[tuple[int, ...]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids ``[B, L]`` padded with 0 on the right, and the mask of what is no padding."""
    length = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=device)
    return ids, mask
