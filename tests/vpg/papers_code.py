"""The paper's models written out once more, in plain torch, to have outputs that none of our modules made.

Everything here follows the published description and the names of the paper's checkpoints (LAVIS, VPGTrans): EVA's ViT
with a bias for queries and values alone, a norm of its own eps behind it, a BERT whose every second layer reads the
image, a linear projection, and transformers' own language model. `save_fixture` writes the files that people hold:
what the paper's trainer leaves behind, the ViT, the LLM's folder, the sizes, and reference tensors to compare with.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZES: dict[str, Any] = {
    "vit": {"img_size": 42, "patch_size": 14, "embed_dim": 24, "depth": 3, "num_heads": 2, "mlp_ratio": 4.3637},
    "bert": {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    | {"vocab_size": 60, "max_position_embeddings": 48},
    "num_query_token": 6,
    "cross_attention_freq": 2,
    "vit_layer_norm_eps": 1e-6,
    "qformer_layer_norm_eps": 1e-12,
    "ln_vision_eps": 1e-5,
}
TRAINED = {1: ("{}_proj.",), 2: ("query_tokens", "ln_vision.", "Qformer.", "{}_proj.")}
"""What each stage of the paper trains, by the beginnings of names."""


class PatchEmbedding(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)


class EvaAttention(nn.Module):
    """Attention whose queries and values have a bias, its keys none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in functional.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
        )
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
        return self.proj((scores.softmax(-1) @ values).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class EvaBlock(nn.Module):
    def __init__(self, sizes: dict[str, Any], eps: float) -> None:
        super().__init__()
        width = sizes["embed_dim"]
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attn = EvaAttention(width, sizes["num_heads"])
        self.mlp = Mlp(width, int(width * sizes["mlp_ratio"]))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class EvaViT(nn.Module):
    """Pixels ``[B, 3, H, W]`` to ``[B, N, C]``; no norm at its end."""

    def __init__(self, sizes: dict[str, Any], eps: float) -> None:
        super().__init__()
        width, side = sizes["embed_dim"], sizes["img_size"] // sizes["patch_size"]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, side**2 + 1, width))
        self.patch_embed = PatchEmbedding(width, sizes["patch_size"])
        self.blocks = nn.ModuleList(EvaBlock(sizes, eps) for _ in range(sizes["depth"]))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x


class BertSelf(nn.Module):
    def __init__(self, width: int, heads: int, read: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(read, width), nn.Linear(read, width)

    def forward(self, x: Tensor, read: Tensor) -> Tensor:
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), self.key(read), self.value(read))
        )
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        return (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)


class BertOutput(nn.Module):
    """A dense layer, the residual, and the norm behind both."""

    def __init__(self, inner: int, width: int, eps: float) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inner, width), nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class BertAttention(nn.Module):
    def __init__(self, sizes: dict[str, Any], read: int, eps: float) -> None:
        super().__init__()
        width = sizes["hidden_size"]
        self.self = BertSelf(width, sizes["num_attention_heads"], read)
        self.output = BertOutput(width, width, eps)

    def forward(self, x: Tensor, read: Tensor) -> Tensor:
        return self.output(self.self(x, read), x)


class Dense(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, inner)


class BertLayer(nn.Module):
    def __init__(self, sizes: dict[str, Any], image: int | None, eps: float) -> None:
        super().__init__()
        width, inner = sizes["hidden_size"], sizes["intermediate_size"]
        self.attention = BertAttention(sizes, width, eps)
        self.crossattention = BertAttention(sizes, image, eps) if image else None
        self.intermediate_query, self.output_query = Dense(width, inner), BertOutput(inner, width, eps)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        x = self.attention(x, x)
        x = self.crossattention(x, image) if self.crossattention else x
        return self.output_query(functional.gelu(self.intermediate_query.dense(x)), x)


class BertEmbeddings(nn.Module):
    def __init__(self, sizes: dict[str, Any], eps: float) -> None:
        super().__init__()
        self.LayerNorm = nn.LayerNorm(sizes["hidden_size"], eps=eps)
        self.register_buffer("position_ids", torch.arange(sizes["max_position_embeddings"]).expand(1, -1))


class Bert(nn.Module):
    def __init__(self, sizes: dict[str, Any], image: int, every: int, eps: float) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(sizes, eps)
        layers = range(sizes["num_hidden_layers"])
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(BertLayer(sizes, image if i % every == 0 else None, eps) for i in layers)

    def forward(self, queries: Tensor, image: Tensor) -> Tensor:
        x = self.embeddings.LayerNorm(queries)
        for layer in self.encoder.layer:
            x = layer(x, image)
        return x


class PapersModel(nn.Module):
    """Blip2OPT, Blip2T5 and Blip2LLaMA in one: they differ in the names `opt_`, `t5_`, `llama_` and in the loss.

    Args:
        kind: the LLM's model type.
        llm: transformers' model, frozen here.
        sizes: as in a shapes file.
    """

    def __init__(self, kind: str, llm: nn.Module, sizes: dict[str, Any] = SIZES) -> None:
        super().__init__()
        self.kind, image = kind, sizes["vit"]["embed_dim"]
        width = sizes["bert"]["hidden_size"]
        self.visual_encoder = EvaViT(sizes["vit"], sizes["vit_layer_norm_eps"])
        self.ln_vision = nn.LayerNorm(image, eps=sizes["ln_vision_eps"])
        self.query_tokens = nn.Parameter(torch.zeros(1, sizes["num_query_token"], width))
        self.Qformer = nn.Module()
        self.Qformer.bert = Bert(sizes["bert"], image, sizes["cross_attention_freq"], sizes["qformer_layer_norm_eps"])
        self.add_module(f"{kind}_model", llm)
        self.add_module(f"{kind}_proj", nn.Linear(width, llm.config.hidden_size))

    @property
    def llm(self) -> Any:
        return getattr(self, f"{self.kind}_model")

    def set_stage(self, stage: int) -> None:
        beginnings = tuple(name.format(self.kind) for name in TRAINED[stage])
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(beginnings))

    def see(self, image: Tensor) -> dict[str, Tensor]:
        """All that happens before the LLM."""
        vit = self.visual_encoder(image)
        normed = self.ln_vision(vit)
        output = self.Qformer.bert(self.query_tokens.expand(len(image), -1, -1), normed)
        soft = getattr(self, f"{self.kind}_proj")(output)
        return {"vit_out": vit, "ln_vision_out": normed, "qformer_out": output, "soft_prompts": soft}

    def forward(self, image: Tensor, **text: Tensor) -> dict[str, Tensor]:
        """All tensors of a reference file; `text` as `decoder_loss` or `t5_loss` takes it."""
        seen = self.see(image)
        speak = t5_loss if self.kind == "t5" else decoder_loss
        loss, logits = speak(self.llm, seen["soft_prompts"], **text)
        return {**seen, "loss": loss, "logits": logits}

    def saved_state(self) -> dict[str, Tensor]:
        """What the paper's trainer saves: the state dict without the parameters that are frozen. Buffers, and the
        second names of tied parameters, stay in it."""
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        return {name: value.clone() for name, value in self.state_dict().items() if name not in frozen}


def decoder_loss(llm: Any, soft: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Soft prompts, then text whose every token (padding not) is a label. They enter where the first block reads:
    behind the projection of narrow word embeddings, where a model has one."""
    words = llm.get_input_embeddings()(input_ids)
    decoder = llm.get_decoder()
    narrow = getattr(decoder, "project_in", None)
    if narrow is not None:
        words, decoder.project_in = narrow(words), None
    try:
        visible = torch.ones(soft.shape[:2], dtype=torch.long)
        labels = torch.cat([visible * -100, input_ids.masked_fill(attention_mask == 0, -100)], dim=1)
        result = llm(
            inputs_embeds=torch.cat([soft, words], dim=1),
            attention_mask=torch.cat([visible, attention_mask], dim=1),
            labels=labels,
        )
    finally:
        if narrow is not None:
            decoder.project_in = narrow
    return result.loss, result.logits


def t5_loss(llm: Any, soft: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Soft prompts and the text's first part into the encoder; `labels` (-100 for padding) is what the decoder says."""
    words = llm.get_encoder().get_input_embeddings()(input_ids)
    mask = torch.cat([torch.ones(soft.shape[:2], dtype=torch.long), attention_mask], dim=1)
    read = llm.get_encoder()(inputs_embeds=torch.cat([soft, words], dim=1), attention_mask=mask)[0]
    start = torch.full((len(labels), 1), llm.config.decoder_start_token_id)
    said = torch.cat([start, labels[:, :-1]], dim=1)
    hidden = llm.get_decoder()(
        input_ids=said.masked_fill(said == -100, llm.config.pad_token_id),
        attention_mask=(labels != -100).long(),
        encoder_hidden_states=read,
        encoder_attention_mask=mask,
    )[0]
    if llm.lm_head.weight is llm.shared.weight:  # T5 scales before a tied head, FlanT5's own head needs no scale
        hidden = hidden * llm.config.d_model**-0.5
    logits = hidden @ llm.lm_head.weight.T
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits


def random_texts(kind: str, ids: range, pad: int) -> dict[str, Tensor]:
    """Three texts of unequal length as the paper's classes get them from the tokenizer."""

    def padded(lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        return torch.randint(ids.start, ids.stop, mask.shape).masked_fill(mask == 0, pad), mask

    input_ids, attention_mask = padded((6, 9, 4))
    text = {"input_ids": input_ids, "attention_mask": attention_mask}
    if kind == "t5":
        said, mask = padded((5, 3, 7))
        text["labels"] = said.masked_fill(mask == 0, -100)
    return text


def shake(module: nn.Module) -> None:
    """Random weights for all of it, norms' and biases' too, so that none hides by being zero or one."""
    with torch.no_grad():
        for parameter in module.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(torch.randn_like(parameter) * scale)


def save_fixture(folder: Path, kind: str, llm: Any, *, ids: range, pad: int, sizes: dict[str, Any] = SIZES) -> None:
    """Write a fixture's files except for the LLM's folder: checkpoints and references of both stages, ViT and sizes."""
    torch.manual_seed(7)
    model = PapersModel(kind, llm, sizes).eval()
    llm.requires_grad_(False)
    for name, part in model.named_children():
        if name != f"{kind}_model":
            shake(part)
    with torch.no_grad():
        model.query_tokens.normal_()
    side = sizes["vit"]["img_size"]
    image, text = torch.randn(3, 3, side, side), random_texts(kind, ids, pad)
    for stage in (1, 2):
        model.zero_grad(set_to_none=True)
        model.set_stage(stage)
        result = model(image, **text)
        result["loss"].backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        reference = {name: value.detach() for name, value in result.items()}
        reference |= {"samples": {"image": image}, "grads": gradients, "pad_token_id": pad, **text}
        torch.save(reference, folder / f"reference_stage{stage}.pt")
        content = {"model": model.saved_state(), "optimizer": {"state": {}}, "config": {"run": {"lr": 1e-4}}}
        torch.save({**content, "scaler": None, "epoch": 0}, folder / f"stage{stage}_checkpoint_0.pth")
    torch.save(dict(model.visual_encoder.state_dict()), folder / "eva_vit.pth")
    (folder / "shapes.json").write_text(json.dumps(sizes))
