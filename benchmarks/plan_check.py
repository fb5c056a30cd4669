"""Does `vpgt plan` foresee what a step takes? FLOPs against torch's counter, memory against the process's real peak.

Each case is a process of its own: random models of middle size are built, one training step is run, and

- FLOPs are counted by ``torch.utils.flop_counter.FlopCounterMode`` over forward and backward pass;
- memory is the peak of the process's resident set in a second step (``VmHWM``, reset before it) less what the process
  held before the models were built. Freed blocks go back to the system at once (``MALLOC_MMAP_THRESHOLD_``), so that
  the resident set is what is allocated.

    python benchmarks/plan_check.py              # all cases as a table
    python benchmarks/plan_check.py opt 2        # one case as JSON
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

VPG = {
    "model_type": "blip-2",
    "num_query_tokens": 32,
    "vision_config": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 6}
    | {"image_size": 84, "patch_size": 14},
    "qformer_config": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 4}
    | {"num_attention_heads": 6, "cross_attention_frequency": 2, "encoder_hidden_size": 384},
}
LLMS: dict[str, dict[str, Any]] = {
    "opt": {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "ffn_dim": 2048, "vocab_size": 30000}
    | {"word_embed_proj_dim": 512},
    "llama": {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 1376}
    | {"vocab_size": 30000, "tie_word_embeddings": False},
    "t5": {"d_model": 512, "num_layers": 3, "num_decoder_layers": 3, "num_heads": 8, "d_kv": 64, "d_ff": 1024}
    | {"vocab_size": 30000, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0},
}
CAPTIONS_PER_IMAGE = 3.0
CASES = [(name, stage) for name in LLMS for stage in (1, 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llm", nargs="?", choices=sorted(LLMS))
    parser.add_argument("stage", nargs="?", type=int, choices=(1, 2), default=2)
    given = parser.parse_args()
    if given.llm:
        print(json.dumps(check(given.llm, given.stage)))
        return
    print(f"{'LLM':<6} {'STAGE':>5} {'GFLOP':>9} {'PLANNED':>9} {'ERROR':>7} {'MB':>8} {'PLANNED':>9} {'ERROR':>7}")
    for name, stage in CASES:
        case = run_case(name, stage)
        print(
            f"{name:<6} {stage:>5} {case['flops'] / 1e9:>9.1f} {case['planned_flops'] / 1e9:>9.1f} "
            f"{case['planned_flops'] / case['flops'] - 1:>7.1%} {case['bytes'] / 1e6:>8.0f} "
            f"{case['planned_bytes'] / 1e6:>9.0f} {case['planned_bytes'] / case['bytes'] - 1:>7.1%}"
        )


def run_case(name: str, stage: int) -> dict[str, Any]:
    """One case in a process of its own."""
    quiet = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), name, str(stage)]
    done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, check=True, timeout=600)
    return json.loads(done.stdout.splitlines()[-1])


def check(name: str, stage: int) -> dict[str, Any]:
    """Run one case here: what a step takes, what was planned for it, and the plan's parts."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from vpgtrans_core.cost.rows import SAMPLE_IMAGES, TextSize, invented_texts

    torch.manual_seed(0)
    text = TextSize(13.0, CAPTIONS_PER_IMAGE)
    planned = plan_of(name, stage, text)
    held_before = resident("VmRSS")
    model = build(name, stage)
    texts = invented_texts(text, 32, name == "t5")
    size = VPG["vision_config"]["image_size"]
    pixels = torch.randn(SAMPLE_IMAGES, 3, size, size)
    optimizer = torch.optim.AdamW(model.trained().values(), lr=1e-4)

    def step() -> None:
        rows = model.llm.layout(texts, model.vpg.num_prompts)
        loss = model.llm.loss(model.soft_prompts(*model.frozen(pixels, "pixels")), rows)
        loss.backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the counter knows no CPU kernel
        step()
    optimizer.zero_grad(set_to_none=False)  # the gradients stay, as they do between micro-batches
    Path("/proc/self/clear_refs").write_text("5")
    step()
    return {
        "flops": counter.get_total_flops(),
        "planned_flops": planned["flops"],
        "bytes": resident("VmHWM") - held_before,
        "planned_bytes": planned["bytes"],
        "parts": planned["parts"],
    }


def plan_of(name: str, stage: int, text: Any) -> dict[str, Any]:
    """What the plan's formulas say of one step over the invented images."""
    import torch
    from vpg_qformer.adapter import QFormerVPG

    from vpgtrans_core.cost.flops import image_flops
    from vpgtrans_core.cost.memory import MemoryModel
    from vpgtrans_core.cost.rows import SAMPLE_IMAGES, row_sizes
    from vpgtrans_core.cost.shapes import llm_shape
    from vpgtrans_core.cost.trace import llm_saved_bytes, vpg_saved_bytes, vpg_work
    from vpgtrans_core.planning import VPGPlan

    config = {"model_type": name, **LLMS[name]}
    shape = llm_shape(config)
    sizes = QFormerVPG.describe(VPG)
    vpg = VPGPlan(name="check", family="qformer", **sizes)
    rows = row_sizes(text, vpg.num_prompts, shape.embedding_size, encoder_decoder=shape.encoder_decoder, share=True)
    flops = image_flops(
        shape,
        vpg_work(QFormerVPG, VPG),
        rows,
        stage=stage,
        num_prompts=vpg.num_prompts,
        output_size=vpg.output_size,
    )
    memory = MemoryModel(
        shape=shape,
        vpg=vpg,
        rows=rows,
        llm_saved=llm_saved_bytes(config, rows, torch.float32),
        vpg_saved=vpg_saved_bytes(QFormerVPG, VPG),
        trained=shape.embedding_size * (vpg.output_size + 1) + (vpg.trained if stage == 2 else 0),
        trains_vpg=stage == 2,
        precision=4,
        reserved=0.0,
    ).at(SAMPLE_IMAGES)
    pixels = SAMPLE_IMAGES * 3 * sizes["image_size"] ** 2 * 4
    parts = {**vars(memory), "pixels": pixels}
    return {"flops": flops.total * SAMPLE_IMAGES, "bytes": memory.total + pixels, "parts": parts}


def build(name: str, stage: int) -> Any:
    """A random VL-LLM of middle size with its stage set."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from vpg_qformer.adapter import QFormerVPG

    from vpgtrans_core.cards import load
    from vpgtrans_core.cost.shapes import config_of
    from vpgtrans_core.model import VLModel
    from vpgtrans_core.registry import default_registry

    words = {word: n for n, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "a", "\n"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)
    family = default_registry().llm_family_of(name)
    assert family is not None
    adapter = load(family.adapter)
    model = adapter.auto_class().from_config(config_of({"model_type": name, **LLMS[name]}))
    llm = adapter(model, tokenizer, family, True)
    vpg = QFormerVPG.from_config(VPG)
    built = VLModel(vpg, torch.nn.Linear(vpg.output_size, llm.embedding_size), llm)
    built.set_stage(stage)
    return built


def resident(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
