"""Does `vpgt plan` foresee what a step takes? FLOPs against torch's counter, memory against the process's real peak.

Each case is a process of its own: random models of middle size are built, one training step is run, and

- FLOPs are counted by ``torch.utils.flop_counter.FlopCounterMode`` over forward and backward pass;
- memory is the peak of the process's resident set in a second step (``VmHWM``, reset before it) less what the process
  held before the models were built. Freed blocks go back to the system at once (``MALLOC_MMAP_THRESHOLD_``), so that
  the resident set is what is allocated.

The first cases are those at which the formulas' constants were looked at; `held out` ones, of other families, widths,
depths, heads, pictures, captions and batches, came later and changed none.

    python benchmarks/plan_check.py              # all cases as a table
    python benchmarks/plan_check.py opt 2        # one case as JSON
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpgtrans_core.cards import LLMFamily
from vpgtrans_core.llm.fallback import fallback_family
from vpgtrans_core.registry import default_registry

QUIET = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
"""The environment of a case's process."""


def vpg_config(width: int, layers: int, image: int, prompts: int, qformer: int, qformer_layers: int) -> dict[str, Any]:
    """The config of a ViT and Q-Former with heads of 64."""
    return {
        "model_type": "blip-2",
        "num_query_tokens": prompts,
        "vision_config": {
            "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
            "num_attention_heads": width // 64, "image_size": image, "patch_size": 14,
        },
        "qformer_config": {
            "hidden_size": qformer, "intermediate_size": 4 * qformer, "num_hidden_layers": qformer_layers,
            "num_attention_heads": qformer // 64, "cross_attention_frequency": 2, "encoder_hidden_size": width,
        },
    }  # fmt: skip


VPG = vpg_config(384, 4, image=84, prompts=32, qformer=384, qformer_layers=4)


@dataclass(frozen=True)
class Case:
    """An LLM by its config, the VPG before it, and a batch."""

    llm: dict[str, Any]
    vpg: dict[str, Any] = field(default_factory=lambda: VPG)
    captions_per_image: float = 3.0
    images: int = 64
    share: bool = True
    """Whether the LLM lets captions share a picture's prefix; a plan for one that does not says `--no-share-prefix`."""
    held_out: bool = True

    @property
    def family(self) -> LLMFamily:
        kind = self.llm["model_type"]
        return default_registry().llm_family_of(kind) or fallback_family(kind)

    @property
    def encoder_decoder(self) -> bool:
        return self.llm["model_type"] == "t5"


def opt(width: int, layers: int, vocabulary: int = 30000, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "opt", "hidden_size": width, "word_embed_proj_dim": width, "num_hidden_layers": layers,
        "num_attention_heads": width // 64, "ffn_dim": 4 * width, "vocab_size": vocabulary, **more,
    }  # fmt: skip


def llama(width: int, layers: int, inner: int, vocabulary: int = 30000, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "llama", "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64,
        "intermediate_size": inner, "vocab_size": vocabulary, "tie_word_embeddings": False, **more,
    }  # fmt: skip


def t5(width: int, encoder: int, decoder: int, inner: int, vocabulary: int = 30000) -> dict[str, Any]:
    return {
        "model_type": "t5", "d_model": width, "num_layers": encoder, "num_decoder_layers": decoder,
        "num_heads": width // 64, "d_kv": 64, "d_ff": inner, "vocab_size": vocabulary,
        "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
    }  # fmt: skip


CASES: dict[str, Case] = {
    "opt": Case(opt(512, 4), held_out=False),
    "llama": Case(llama(512, 4, 1376), held_out=False),
    "t5": Case(t5(512, 3, 3, 1024), held_out=False),
    "opt-deep": Case(opt(320, 10, 12000), captions_per_image=1.0, images=40),
    "opt-narrow": Case(opt(768, 3, 20000, word_embed_proj_dim=256, do_layer_norm_before=False), images=32),
    "llama-grouped": Case(
        llama(640, 5, 2240, 50000, num_key_value_heads=2),
        vpg_config(256, 6, image=112, prompts=16, qformer=256, qformer_layers=6),
        captions_per_image=5.0,
        images=24,
    ),
    "t5-uneven": Case(
        t5(384, 6, 2, 1536, 16000),
        vpg_config(448, 3, image=112, prompts=32, qformer=320, qformer_layers=2),
        captions_per_image=2.0,
        images=48,
    ),
    "qwen2": Case(
        {**llama(448, 6, 1792, 40000, num_key_value_heads=1), "model_type": "qwen2", "tie_word_embeddings": True},
        vpg_config(320, 5, image=140, prompts=24, qformer=384, qformer_layers=4),
        captions_per_image=4.0,
        images=20,
    ),
    "bloom": Case(
        {"model_type": "bloom", "hidden_size": 512, "n_layer": 5, "n_head": 8, "vocab_size": 25000},
        captions_per_image=2.0,
        images=32,
        share=False,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=sorted(CASES))
    parser.add_argument("stage", nargs="?", type=int, choices=(1, 2), default=2)
    given = parser.parse_args()
    if given.case:
        measure = check if QUIET.items() <= os.environ.items() else run_case  # memory is only right in that environment
        print(json.dumps(measure(given.case, given.stage)))
        return
    header = ("GFLOP", "PLANNED", "ERROR", "MB", "PLANNED", "ERROR")
    print(f"{'CASE':<16}{'HELD OUT':<10}{'STAGE':>5}" + "".join(f"{name:>10}" for name in header))
    for name, case in CASES.items():
        for stage in (1, 2):
            found = run_case(name, stage)
            print(
                f"{name:<16}{'yes' if case.held_out else 'no':<10}{stage:>5}"
                f"{found['flops'] / 1e9:>10.1f}{found['planned_flops'] / 1e9:>10.1f}"
                f"{found['planned_flops'] / found['flops'] - 1:>10.1%}{found['bytes'] / 1e6:>10.0f}"
                f"{found['planned_bytes'] / 1e6:>10.0f}{found['planned_bytes'] / found['bytes'] - 1:>10.1%}",
                flush=True,
            )


def run_case(name: str, stage: int) -> dict[str, Any]:
    """One case in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), name, str(stage)]
    done = subprocess.run(command, env=os.environ | QUIET, capture_output=True, text=True, check=True, timeout=600)
    return json.loads(done.stdout.splitlines()[-1])


def check(name: str, stage: int) -> dict[str, Any]:
    """Run one case here: what a step takes, what was planned for it, and the plan's parts."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from vpgtrans_core.planning.cost.rows import TextSize, invented_texts

    torch.manual_seed(0)
    case = CASES[name]
    text = TextSize(13.0, case.captions_per_image)
    planned = plan_of(case, stage, text)
    held_before = resident("VmRSS")
    model = build(case, stage)
    texts = invented_texts(text, 32, case.encoder_decoder)[: case.images]
    size = case.vpg["vision_config"]["image_size"]
    pixels = torch.randn(case.images, 3, size, size)
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


def plan_of(case: Case, stage: int, text: Any) -> dict[str, Any]:
    """What the plan's formulas say of one step over the invented images."""
    import torch
    from vpg_qformer.adapter import QFormerVPG

    from vpgtrans_core.llm.loss import CHUNK_LOGITS
    from vpgtrans_core.planning.cost.flops import image_flops
    from vpgtrans_core.planning.cost.memory import MemoryModel
    from vpgtrans_core.planning.cost.rows import row_sizes
    from vpgtrans_core.planning.cost.shapes import llm_shape
    from vpgtrans_core.planning.cost.trace import llm_saved_bytes, vpg_saved_bytes, vpg_work
    from vpgtrans_core.planning.parts import VPGPlan
    from vpgtrans_core.recipes.lists import PAPER

    shape = llm_shape(case.llm, case.family.adapter)
    sizes = QFormerVPG.describe(case.vpg)
    vpg = VPGPlan(name="check", family="qformer", **sizes)
    rows = row_sizes(
        text, vpg.num_prompts, shape.embedding_size, encoder_decoder=shape.encoder_decoder, share=case.share
    )
    flops = image_flops(
        shape,
        vpg_work(QFormerVPG, case.vpg),
        rows,
        trains_vpg=PAPER.stages[stage].trains_vpg,
        num_prompts=vpg.num_prompts,
        output_size=vpg.output_size,
    )
    memory = MemoryModel(
        shape=shape,
        vpg=vpg,
        rows=rows,
        llm_saved=llm_saved_bytes(case.llm, case.family.adapter, rows, torch.float32),
        vpg_saved=vpg_saved_bytes(QFormerVPG, case.vpg),
        trained=shape.embedding_size * (vpg.output_size + 1) + (vpg.trained if PAPER.stages[stage].trains_vpg else 0),
        trains_vpg=PAPER.stages[stage].trains_vpg,
        precision=4,
        reserved=0.0,
        logits_at_once=CHUNK_LOGITS,
    ).at(case.images)
    pixels = case.images * 3 * sizes["image_size"] ** 2 * 4
    parts = {**vars(memory), "pixels": pixels}
    return {"flops": flops.total * case.images, "bytes": memory.total + pixels, "parts": parts}


def build(case: Case, stage: int) -> Any:
    """A random VL-LLM of middle size with its stage set."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from vpg_qformer.adapter import QFormerVPG

    from vpgtrans_core.cards import load
    from vpgtrans_core.llm.empty import config_of
    from vpgtrans_core.recipes.lists import PAPER
    from vpgtrans_core.vlm.model import VLModel

    words = {word: n for n, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "a", "\n"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)
    adapter = load(case.family.adapter)
    model = adapter.auto_class().from_config(config_of(case.llm))
    llm = adapter(model, tokenizer, case.family, True)
    vpg = QFormerVPG.from_config(case.vpg)
    built = VLModel(vpg, torch.nn.Linear(vpg.output_size, llm.embedding_size), llm)
    built.train_only(PAPER.stages[stage].trains)
    return built


def resident(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
