"""SHA-256 of the final weights of sixteen short transfers of the miniature, on one thread: what a change of structure
must leave as it is.

    python benchmarks/same_bits.py > before.txt     # on the code before the change
    python benchmarks/same_bits.py --against before.txt

Run both on one machine: other processors and other versions of torch round differently.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

import torch

import vpgtrans_core

RUNS = {
    f"{target}-{name}": {"target": target, **values}
    for target in ("opt-mini-l", "llama-mini", "t5-mini")
    for name, values in (("words", {"start": "words"}), ("converter", {"start": "converter"}))
} | {
    "inherit": {"target": "llama-mini", "method": "inherit"},
    "scratch": {"target": "llama-mini", "method": "scratch"},
}
SHORT = {"limit": 240, "val_images": 40, "stage1_steps": 3, "stage2_steps": 4, "batch_size": 80, "seed": 3}


def final_weights(name: str, folder: Path, cached: bool) -> str:
    """Run one transfer into `folder` and return the SHA-256 of the weights that it wrote."""
    cache = {"cache_features": cached, "cache": str(folder / "cache")}
    out = folder / f"{name}-{cached}"
    vpgtrans_core.transfer(source="opt-mini-s", out=str(out), device="cpu", **SHORT, **RUNS[name], **cache)
    digest = hashlib.sha256()
    for file in sorted(out.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="an earlier output; exit code 1 where a line differs")
    parser.add_argument("--only", nargs="*", default=list(RUNS), choices=list(RUNS))
    arguments = parser.parse_args()
    before = dict(line.split() for line in arguments.against.read_text().splitlines()) if arguments.against else {}
    torch.set_num_threads(1)
    differ = False
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            for cached in (False, True):
                line = f"{name}{'-cached' if cached else ''}"
                found = final_weights(name, Path(folder), cached)
                other = before.get(line, found) != found
                differ |= other
                print(line, found, "DIFFERS" if other else "", flush=True)
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
