"""The causal language models of transformers that are tried without a plugin, at tiny size, and what each answers.

    python tests/llm/model_classes.py      # the table of docs/checkpoints.md

For each: do its captions share their picture's prefix in one row (`tree`), is every caption a row of its own (`rows`),
or is it refused, and for what reason; and how far loss and gradient are from transformers' own.
"""

from __future__ import annotations

import copy
import sys
from typing import Any, NamedTuple

import torch
import transformers
from conftest import TEXTS, loss_and_gradient, random_model, soft_prompts_for
from tiny_tokenizers import metaspace
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from vpgtrans_core.cards import load as load_adapter
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.fallback import fallback_family
from vpgtrans_core.testing.plain import plain_loss

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 344,
    "max_position_embeddings": 128, "pad_token_id": None,
}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 2}
HEADS = GROUPED | {"head_dim": 8}
WINDOW, NARROW = {"sliding_window": 16}, {"sliding_window": 6}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
QWEN_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 344, "n_positions": 128}
FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 344}
STATE = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 344, "state_size": 4}
LATENT = SIZES | {
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_group": 1,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
    "topk_group": 1,
}  # fmt: skip
LINEAR = HEADS | {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
LLAMA4 = HEADS | {
    "intermediate_size_mlp": 64, "num_local_experts": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1,
}  # fmt: skip
GEMMA4 = HEADS | {
    "num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 8,
} | WINDOW  # fmt: skip
GPT_NEO = {
    "hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 344,
    "attention_types": [[["global", "local"], 1]],
}  # fmt: skip
MAMBA_HEADS = {"mamba_n_heads": 4, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}

TREE, ROWS = "tree", "rows"
NO_GENERATION = "cannot generate from soft prompts"


class Tried(NamedTuple):
    """A model class: its name for people, its model type, tiny sizes, and what it answers (`TREE`, `ROWS`, or a part of
    the reason why it is refused)."""

    name: str
    kind: str
    sizes: dict[str, Any]
    answer: str


EVERY = [
    Tried("Qwen2", "qwen2", GROUPED, TREE),
    Tried("Qwen3", "qwen3", HEADS, TREE),
    Tried("Qwen2-MoE", "qwen2_moe", GROUPED | QWEN_EXPERTS | {"shared_expert_intermediate_size": 16}, TREE),
    Tried("Qwen3-MoE", "qwen3_moe", HEADS | QWEN_EXPERTS, TREE),
    Tried("Qwen3-Next", "qwen3_next", LINEAR | QWEN_EXPERTS | {"shared_expert_intermediate_size": 16}, ROWS),
    Tried("Qwen3.5", "qwen3_5_text", LINEAR, ROWS),
    Tried("Mistral", "mistral", GROUPED, TREE),
    Tried("Mistral, sliding window", "mistral", GROUPED | WINDOW, TREE),
    Tried("Mistral, window shorter than a row", "mistral", GROUPED | NARROW, ROWS),
    Tried("Ministral", "ministral", HEADS, TREE),
    Tried("Mixtral", "mixtral", GROUPED | EXPERTS, TREE),
    Tried("Gemma", "gemma", HEADS, TREE),
    Tried("Gemma 2", "gemma2", HEADS | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0}, TREE),
    Tried("Gemma 3", "gemma3_text", HEADS, TREE),
    Tried("Gemma 3, softcap", "gemma3_text", HEADS | WINDOW | {"final_logit_softcapping": 2.0}, TREE),
    Tried("Gemma 3, window shorter than a row", "gemma3_text", HEADS | NARROW, ROWS),
    Tried("Gemma 4", "gemma4_text", GEMMA4 | {"hidden_size_per_layer_input": 0}, TREE),
    Tried("Gemma 4, embeddings in each layer", "gemma4_text", GEMMA4, "without providing `input_ids`"),
    Tried("Phi-2", "phi", SIZES, TREE),
    Tried("Phi-3", "phi3", GROUPED, TREE),
    Tried("Phi-3.5-MoE", "phimoe", GROUPED | EXPERTS, TREE),
    Tried("GPT-NeoX (Pythia)", "gpt_neox", SIZES, TREE),
    Tried("GPT-NeoX, serial", "gpt_neox", SIZES | {"use_parallel_residual": False}, TREE),
    Tried("GPT-2", "gpt2", GPT2, TREE),
    Tried("GPT-Neo, window longer than a packed row", "gpt_neo", GPT_NEO | {"window_size": 640}, TREE),
    Tried("GPT-Neo", "gpt_neo", GPT_NEO | {"window_size": 256}, ROWS),
    Tried("GPT-J", "gptj", GPT2 | {"rotary_dim": 4}, TREE),
    Tried("CodeGen", "codegen", GPT2 | {"rotary_dim": 4}, TREE),
    Tried("StarCoder", "gpt_bigcode", GPT2, TREE),
    Tried("StarCoder2", "starcoder2", GROUPED, TREE),
    Tried("GPT-OSS", "gpt_oss", HEADS | EXPERTS | WINDOW, TREE),
    Tried("BLOOM", "bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 344}, ROWS),
    Tried("MPT", "mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 344, "max_seq_len": 128}, ROWS),
    Tried("Falcon", "falcon", FALCON, TREE),
    Tried("Falcon, ALiBi", "falcon", FALCON | {"alibi": True}, ROWS),
    Tried("Falcon, new decoder", "falcon", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}, TREE),
    Tried("SmolLM3", "smollm3", GROUPED, TREE),
    Tried("Llama 4", "llama4_text", LLAMA4 | {"attention_chunk_size": 32}, TREE),
    Tried("Llama 4, chunk shorter than a row", "llama4_text",
          LLAMA4 | {"attention_chunk_size": 6, "no_rope_layers": [1, 1]}, ROWS),
    Tried("DeepSeek-V3", "deepseek_v3", LATENT, TREE),
    Tried("Cohere (Command R)", "cohere", GROUPED | {"logit_scale": 0.3}, TREE),
    Tried("Cohere 2", "cohere2", HEADS | WINDOW, TREE),
    Tried("Granite", "granite",
          SIZES | {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5}, TREE),
    Tried("Granite-MoE", "granitemoe", GROUPED | EXPERTS, TREE),
    Tried("Granite 4 (hybrid)", "granitemoehybrid",
          GROUPED | EXPERTS | {"mamba_n_heads": 4, "mamba_d_head": 16, "layer_types": ["mamba", "attention"]}, ROWS),
    Tried("OLMo", "olmo", SIZES, TREE),
    Tried("OLMo 2", "olmo2", GROUPED, TREE),
    Tried("OLMoE", "olmoe", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}, TREE),
    Tried("StableLM", "stablelm", GROUPED, TREE),
    Tried("GLM", "glm", HEADS, TREE),
    Tried("GLM 4", "glm4", HEADS, TREE),
    Tried("ERNIE 4.5", "ernie4_5", HEADS, TREE),
    Tried("EXAONE 4", "exaone4", HEADS, TREE),
    Tried("Nemotron", "nemotron", HEADS, TREE),
    Tried("Hunyuan", "hunyuan_v1_dense", HEADS, TREE),
    Tried("Apertus", "apertus", GROUPED, TREE),
    Tried("XGLM", "xglm",
          {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64, "vocab_size": 344}, TREE),
    Tried("LFM2", "lfm2", HEADS | {"layer_types": ["conv", "full_attention"]}, ROWS),
    Tried("Mamba", "mamba", STATE, ROWS),
    Tried("Mamba 2", "mamba2", STATE | {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8}, ROWS),
    Tried("Falcon-Mamba", "falcon_mamba", STATE, ROWS),
    Tried("Jamba", "jamba",
          GROUPED | {"num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1,
                     "mamba_d_state": 4, "use_mamba_kernels": False}, ROWS),
    Tried("Falcon-H1", "falcon_h1", HEADS | MAMBA_HEADS | {"mamba_d_ssm": 32, "mamba_d_head": 8}, NO_GENERATION),
    Tried("Bamba", "bamba", HEADS | MAMBA_HEADS | {"mamba_d_head": 16, "attn_layer_indices": [1]}, NO_GENERATION),
    Tried("RWKV", "rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 344}, NO_GENERATION),
    Tried("GPT (2018)", "openai-gpt", GPT2, NO_GENERATION),
]  # fmt: skip
TABLE = [tried for tried in EVERY if tried.kind in CONFIG_MAPPING_NAMES]
"""Those that this transformers has."""


def main() -> None:
    transformers.logging.set_verbosity_error()
    print("| model | `model_type` | captions of a picture | loss | gradient |\n|---|---|---|---|---|")
    for tried in TABLE:
        try:
            llm, model = load(tried)
        except ModelError as error:
            reason = error.message.partition(" ")[2].partition(":")[0]
            print(f"| {tried.name} | `{tried.kind}` | refused: {reason} | | |")
            continue
        prompts = soft_prompts_for(model)
        rows = llm.layout(TEXTS, prompts.shape[1])
        found = loss_and_gradient(lambda p: llm.loss(p, rows), prompts)  # noqa: B023
        expected = loss_and_gradient(lambda p: plain_loss(model, p, TEXTS), prompts)  # noqa: B023
        errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]
        how = "share its prefix" if llm.shares_prefix else "a row each"
        print(f"| {tried.name} | `{tried.kind}` | {how} | {errors[0]:.0e} | {errors[1]:.0e} |")


def load(tried: Tried, tokenizer: Any = None, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The fallback's adapter of a class, and transformers' model of the same random weights."""
    model = random_model(AutoConfig.for_model(tried.kind, **tried.sizes), dtype)
    if "attn_logit_softcapping" in tried.sizes:
        model.set_attn_implementation("eager")  # the only kernel that computes it, whatever is the default
    described = fallback_family(tried.kind)
    return load_adapter(described.adapter)(copy.deepcopy(model), tokenizer or metaspace(), described), model


if __name__ == "__main__":
    sys.exit(main())
