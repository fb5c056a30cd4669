"""How far one process and two differ after some steps: ``python benchmarks/rounding.py``.

Both compute the same sums in another order, so they differ by float32's rounding, 6e-8 at each operation; training
amplifies it. Printed are the largest differences of the held-out loss up to a step, of the miniature's transfer on a
CPU, for each optimiser and learning rate of the projector's stage.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RATES = (5e-5, 5e-4, 5e-3)
SHOWN = (0, 1, 2, 5, 10)
PROGRAM = "vpgtrans_core.cli.main"


def losses(out: Path, processes: int, optimizer: str, rate: float) -> list[float]:
    """The held-out losses of a run in its first stage, from step 0 on."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    start = [*(several if processes > 1 else []), "-m", PROGRAM]
    models = "transfer --from opt-mini-s --to llama-mini --limit 200 --batch-size 40 --val-images 16 --quiet"
    length = f"--stage1-steps {SHOWN[-1]} --stage2-steps 1 --stage1-optimizer {optimizer} --stage1-lr {rate}"
    more = f"--device cpu --no-early-stop --workers 0 --no-augment --out {out}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *start, *models.split(), *length.split(), *more.split()]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [m["held_out_loss"] for m in lines if m["stage"] == 1 and m.get("held_out_loss") is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    given = parser.parse_args()
    print(f"{'OPTIMISER':<10}{'RATE':<8}" + "".join(f"{f'STEP {step}':>10}" for step in SHOWN))
    for optimizer in ("adamw", "muon"):
        for rate in given.rates:
            with tempfile.TemporaryDirectory() as folder:
                one, two = (losses(Path(folder) / str(count), count, optimizer, rate) for count in (1, 2))
            apart = [abs(a - b) for a, b in zip(one, two, strict=True)]
            numbers = "".join(f"{max(apart[: step + 1]):>10.1e}" for step in SHOWN)
            print(f"{optimizer:<10}{rate:<8g}{numbers}", flush=True)


if __name__ == "__main__":
    main()
