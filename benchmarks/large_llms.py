"""The ways to hold a large LLM on several GPUs, as `vpgt plan` judges them: the table of docs/launching.md.

python benchmarks/large_llms.py                    # llama-2-70b and opt-66b; nothing is downloaded
python benchmarks/large_llms.py --llm vicuna-13b --on 2x4090
"""

from __future__ import annotations

import argparse

from vpgtrans_core.cli.plan_ways import name
from vpgtrans_core.planning.cost.assumptions import assumptions_for
from vpgtrans_core.planning.cost.chips import chip, chips
from vpgtrans_core.planning.cost.costs import Cost
from vpgtrans_core.planning.cost.estimate import Estimator
from vpgtrans_core.planning.plan import plan
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings

SOURCE = "opt-2.7b"
LLMS = ("llama-2-70b", "opt-66b")
MACHINES = ("8xh100", "4xa100-40", "8x4090")


def cost_of(llm: str, machine: str) -> Cost:
    """The estimate for a transfer of the paper's amount of data to an LLM on a machine such as ``8xh100``."""
    gpus, _, gpu = machine.partition("x")
    registry = default_registry()
    planned = plan(Settings(source=SOURCE, target=llm, offline=True), registry=registry, downloads=False)
    device = chip(gpu, chips())
    return Estimator(planned, registry, device, assumptions_for(planned, device, gpus=int(gpus))).cost()


def lines(llm: str, machine: str, cost: Cost) -> list[str]:
    """The rows of one LLM on one machine; quantised ways only where they are better than none."""
    rows = []
    for way in cost.ways:
        if (
            way.quantization != "none"
            and not way.picked
            and any(w.fits for w in cost.ways if w.hold == way.hold and w.rank < way.rank)
        ):
            continue
        takes = f"{way.hours:,.0f} | {way.usd:,.0f}" if way.fits else "too large | "
        traffic = f"{(way.gpu_bytes + way.host_bytes) / 1e9:,.1f} | {way.traffic_seconds:,.1f}" if way.fits else " | "
        weights, total = way.memory.llm_weights / 1e9, way.memory.total / 1e9
        host = f"{way.host.total / 1e9:.0f}"
        label = f"**{name(way)}**" if way.picked else name(way)
        rows.append(f"| {llm} | {machine} | {label} | {weights:.1f} | {total:.1f} | {host} | {traffic} | {takes} |")
    return rows


def table(costs: dict[tuple[str, str], Cost]) -> list[str]:
    """The whole table; the way that is picked stands out."""
    head = "| LLM | GPUs | way | weights, GB | least, GB | host, GB | GB a step | its s | hours | USD |"
    return [head, "|---" * 10 + "|", *(row for key, cost in costs.items() for row in lines(*key, cost))]


def main(arguments: list[str] | None = None) -> list[str]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", action="append", help=f"default {', '.join(LLMS)}")
    parser.add_argument("--on", action="append", metavar="NxGPU", help=f"default {', '.join(MACHINES)}")
    options = parser.parse_args(arguments)
    made = {(llm, on): cost_of(llm, on) for llm in options.llm or LLMS for on in options.on or MACHINES}
    printed = table(made)
    print("\n".join(printed))
    return printed


if __name__ == "__main__":
    main()
