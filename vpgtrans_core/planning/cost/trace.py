"""FLOPs and saved activations of modules, measured by a pass on the meta device, which computes and stores nothing.

No family needs a formula of its own, so that a plugin's family is counted like the built-in ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from vpgtrans_core.cards import load
from vpgtrans_core.llm.empty import config_of
from vpgtrans_core.planning.cost.flops import VPGWork
from vpgtrans_core.planning.cost.shapes import meta_llm

if TYPE_CHECKING:
    from vpgtrans_core.planning.cost.rows import RowSizes
    from vpgtrans_core.vpg.adapter import VPG

SAMPLE_ROWS = 2
"""Rows that are traced; saved activations grow in proportion to them."""


def saved_bytes(compute: Callable[[], Tensor], weights: Iterator[Tensor] = iter(())) -> int:
    """Bytes of all tensors that autograd keeps for the backward pass of `compute`, shared storage once.

    Args:
        compute: a forward pass.
        weights: tensors that are in memory anyway and do not count.
    """
    kept: dict[int, Tensor] = {}
    known = {_storage(w) for w in weights}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in known:
            kept[_storage(tensor)] = tensor  # held, so that its address is not given to another
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        result = compute()
    del result
    return sum(t.untyped_storage().nbytes() for t in kept.values())


def llm_saved_bytes(config: dict[str, Any], adapter: str, rows: RowSizes, dtype: torch.dtype) -> float:
    """Bytes that the frozen LLM keeps for the backward pass of one image's captions.

    Args:
        config: the content of its ``config.json``.
        adapter: its family's.
        rows: the sizes of its rows, an image on average.
        dtype: the precision of the LLM.
    """
    with torch.device("meta"):
        model = load(adapter).prepare(meta_llm(config_of(config), attention=None).to(dtype))
    width = model.get_input_embeddings().weight.shape[1]
    decoder = SAMPLE_ROWS, rows.length
    encoder = SAMPLE_ROWS, rows.encoder_length

    def inputs(shape: tuple[int, int]) -> Tensor:
        return torch.empty(*shape, width, dtype=dtype, device="meta", requires_grad=True)

    def mask(queries: tuple[int, int], keys: int) -> Tensor:
        return torch.ones(queries[0], 1, queries[1], keys, dtype=torch.bool, device="meta")

    def compute() -> Tensor:
        if rows.encoder_length:
            read = model.get_encoder()(inputs_embeds=inputs(encoder), attention_mask=mask(encoder, encoder[1]))[0]
            return model.get_decoder()(
                inputs_embeds=inputs(decoder).detach(),
                attention_mask=mask(decoder, decoder[1]),
                encoder_hidden_states=read,
                encoder_attention_mask=mask(decoder, encoder[1]),
                use_cache=False,
            )[0]
        place = torch.arange(rows.length, device="meta").expand(decoder)
        try:
            return model.base_model(
                inputs_embeds=inputs(decoder),
                attention_mask=mask(decoder, rows.length),
                position_ids=place,
                use_cache=False,
            )[0]
        except (ValueError, TypeError, RuntimeError):  # a class that takes no tree gets padded rows
            ordinary = torch.ones(decoder, dtype=torch.long, device="meta")
            return model.base_model(inputs_embeds=inputs(decoder), attention_mask=ordinary, use_cache=False)[0]

    with _FusedAttention():
        total = saved_bytes(compute, iter(model.parameters()))
    return total / SAMPLE_ROWS * rows.positions / rows.length


def meta_vpg(adapter: type[VPG], config: dict[str, Any]) -> Any:
    """The VPG without memory for its weights, None where its adapter cannot be built from a config."""
    if not hasattr(adapter, "from_config"):
        return None
    with torch.device("meta"):
        return adapter.from_config(config).eval().requires_grad_(False)


def vpg_work(adapter: type[VPG], config: dict[str, Any]) -> VPGWork:
    """FLOPs of the VPG for one image; an estimate by its parameters where it cannot be built from a config."""
    vpg, sizes = meta_vpg(adapter, config), adapter.describe(config)
    if vpg is None:
        prompts = 2 * sizes["trained"] * sizes["num_prompts"]
        return VPGWork(2 * sizes["frozen"] * sizes["feature_shape"][0], prompts, 2 * prompts)
    size = sizes["image_size"]
    features = _counted(lambda: vpg.features(torch.empty(1, 3, size, size, device="meta")))
    seen = torch.empty(1, *sizes["feature_shape"], device="meta")
    with torch.no_grad():
        prompts = _counted(lambda: vpg.prompts(seen))
    _train(vpg)
    both = _counted(lambda: vpg.prompts(seen).sum().backward())
    tiles = sizes.get("tiles", 1)
    return VPGWork(tiles * features, tiles * prompts, tiles * (both - prompts))


def vpg_saved_bytes(adapter: type[VPG], config: dict[str, Any]) -> float:
    """Bytes in fp32 that the VPG's trained part keeps for the backward pass of one image."""
    vpg, sizes = meta_vpg(adapter, config), adapter.describe(config)
    if vpg is None:
        return 4.0 * 12 * math.prod(sizes["feature_shape"])
    _train(vpg)
    seen = torch.empty(SAMPLE_ROWS, *sizes["feature_shape"], device="meta")
    with _FusedAttention():
        return sizes.get("tiles", 1) * saved_bytes(lambda: vpg.prompts(seen), vpg.parameters()) / SAMPLE_ROWS


def _train(vpg: Any) -> None:
    for _, parameter in vpg.trained():
        parameter.requires_grad_(True)
    vpg.train()


def _counted(compute: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        compute()
    return float(counter.get_total_flops())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _Attention(torch.autograd.Function):
    """Keeps what a fused attention keeps: queries, keys, values, mask, output, and one number a row of scores."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        scale = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, output, scale)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *(torch.empty_like(t) for t in ctx.saved_tensors[:3]), None


class _FusedAttention(TorchFunctionMode):
    """On the meta device torch takes its plain attention, which keeps all scores; devices take a fused one."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not nn.functional.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        return _Attention.apply(*_attention_inputs(*args, **(kwargs or {})))


def _attention_inputs(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **more: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The tensors among the arguments of torch's attention."""
    return query, key, value, attn_mask
