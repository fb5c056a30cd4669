"""How the frozen LLM is held: quantised, compiled, in shards; and which of these go together. Loads no torch."""

from __future__ import annotations


def holding_problems(*, quantized: bool, compiled: bool, checkpoints: bool, shard: bool) -> list[str]:
    """What does not go together of how the LLM is held.

    Args:
        quantized: in 8 or 4 bits.
        compiled: by ``torch.compile``, as the user asks.
        checkpoints: its activations are recomputed in the backward pass.
        shard: its blocks are spread over the processes.
    """
    wrong = {
        "compile: blocks recomputed by checkpoint_activations run uncompiled; give one of the two": (
            compiled and checkpoints
        ),
        "compile: a quantised LLM cannot be compiled; give one of compile and quantization": compiled and quantized,
        "shard: a quantised LLM's packed numbers cannot be cut; give one of shard and quantization": shard
        and quantized,
        "shard: blocks that are gathered when they run cannot be compiled; give one of shard and compile": (
            shard and compiled
        ),
    }
    return [problem for problem, holds in wrong.items() if holds]
