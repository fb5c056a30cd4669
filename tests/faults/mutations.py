"""What vpgt reads back of itself and what people write for it, with random values changed: ``python
tests/faults/mutations.py [--count N] [--seed S] [KIND ...]`` prints each fault.

A changed file may end in an error of ours, or mean the same as before: a resumed run must end with the weights and
losses of the untouched one. Anything else is a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import io
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import yaml

from tests.faults import hostile_runs
from tests.faults.harness import digest
from vpgtrans_core.errors import VpgtError

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 10**30, 0.5, -1.5, 1e308, "", "x", "NaN", "-1", "é\u2028\x1b[31m"),
    *([], {}, [[]], {"a": 1}, [None], ["x"], [1, 2]),
)
DEEP: Any = [[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]


class Quiet:
    def stage(self, name: str, total: int) -> None: ...
    def message(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...
    def step(self, advance: int = 1, **values: float) -> None: ...


def places(values: Any) -> Iterator[tuple[Any, ...]]:
    """The paths of all values inside."""
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inner:
        yield (key,)
        yield from ((key, *more) for more in places(value))


def changed(values: Any, rng: random.Random) -> tuple[Any, str]:
    """`values` with one or two random changes, and what they are."""
    values, told = copy.deepcopy(values), []
    for _ in range(rng.choice((1, 1, 2))):
        every = list(places(values))
        if not every:
            break
        tops = list(dict.fromkeys(path[0] for path in every))
        top = rng.choice(tops)  # long lists have no more weight than a single value
        *path, last = rng.choice([one for one in every if one[0] == top])
        holder = values
        for key in path:
            holder = holder[key]
        how = rng.choice(("value", "value", "value", "remove", "near", "add", "deep"))
        name = ".".join(map(str, (*path, last)))
        if how == "remove":
            del holder[last]
        elif how == "add" and isinstance(holder, dict):
            holder[rng.choice(("x", "seed", "sha256", str(last) + "s"))] = rng.choice(VALUES)
        elif how == "deep":
            holder[last] = DEEP
        else:
            holder[last] = near(holder[last], rng) if how == "near" else rng.choice(VALUES)
        told.append(f"{how} {name}" + ("" if how in ("remove", "add", "deep") else f" = {holder[last]!r:.60}"))
    return values, "; ".join(told)


def near(value: Any, rng: random.Random) -> Any:
    """A value of the same type beside this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + rng.choice((-1, 1, 3)) if value else rng.choice((1, -1))
    if isinstance(value, str):
        return value[:-1] + rng.choice("ab0") if value else "a"
    return value[:-1] if isinstance(value, list) else dict(list(value.items())[:-1]) if isinstance(value, dict) else 1


# --- a stopped run ---


def resumed(out: Path) -> str | None:
    from vpgtrans_core.run.pipeline import transfer

    transfer(out=str(out), resume=True, device="cpu", reporter=Quiet())  # type: ignore[arg-type]
    return digest(out)


@cache
def untouched() -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(hostile_runs.world() / "out", Path(folder) / "out")
        return resumed(Path(folder) / "out")


def judged(out: Path) -> str | None:
    """How a resume of a changed run is wrong, or None."""
    wanted = untouched()
    if (out / "config.json").is_file():
        return None
    return None if resumed(out) == wanted else "taken, and the result is another"


def record(rng: random.Random, root: Path) -> tuple[str, Callable[[], str | None]]:
    shutil.copytree(hostile_runs.world() / "out", root / "out")
    path = root / "out/run.json"
    values, told = changed(json.loads(path.read_text()), rng)
    path.write_text(json.dumps(values))
    return told, lambda: judged(root / "out")


def state(rng: random.Random, root: Path) -> tuple[str, Callable[[], str | None]]:
    """The state of its checkpoint, with a manifest that agrees."""
    shutil.copytree(hostile_runs.world() / "out", root / "out")
    (folder,) = (root / "out/checkpoints").glob("stage*")
    values, told = changed(json.loads((folder / "state.json").read_text()), rng)
    content = json.dumps(values).encode()
    (folder / "state.json").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["state.json"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return told, lambda: judged(root / "out")


def manifest(rng: random.Random, root: Path) -> tuple[str, Callable[[], str | None]]:
    shutil.copytree(hostile_runs.world() / "out", root / "out")
    (path,) = (root / "out/checkpoints").glob("stage*/manifest.json")
    values, told = changed(json.loads(path.read_text()), rng)
    path.write_text(json.dumps(values))
    return told, lambda: judged(root / "out")


# --- what people write, and manifests of shards ---

CARDS = {
    "llm": [
        {
            "family": "llama", "alias": "mine-1b", "hub_id": "me/mine-1b", "parameters": 10**9, "hidden_size": 2048,
            "layers": 22, "heads": 32, "intermediate_size": 5632, "vocab_size": 32000, "licence": "mit",
        }
    ],
    "source": [{"family": "qformer", "alias": "mine", "hub_id": "me/blip2-mine", "llm": "opt-2.7b"}],
}  # fmt: skip
EXPERIMENT = {
    "about": "a try", "recipe": "miniature", "vpg": "vpg-mini", "made": {"a": {"llm": "opt-mini-s", "epochs": 2}},
    "pairs": [{"from": "opt-mini-s", "to": "llama-mini", "paper": []}], "sources": ["a"], "targets": ["t5-mini"],
    "arms": ["merged", "own"], "define": {"own": {"title": "own", "settings": {"start": "random"}, "length": "both"}},
    "seeds": [0, 1], "epochs": 2, "warm_up_epochs": 1.0, "points": "end", "pictures": 24,
    "settings": {"device": "cpu", "batch_size": 25, "stage2_lr": 1e-4}, "generate": {"num_beams": 1},
    "tasks": {"mini-captions": {"limit": 3, "metric": "cider"}}, "price": 0.1,
}  # fmt: skip
SETTINGS = {
    "source": "opt-mini-s", "target": "llama-mini", "data": ["a.json", "b.json"], "ratios": [1.0, 2.0], "seed": 3,
    "stages": [1, {"name": "more", "trains": ["vpg"], "lr": 1e-4, "steps": 3, "data": ["c.json"]}], "augment": True,
    "stage1_lr": 1e-3, "batch_size": 20, "max_tokens": 40, "method": "vpgtrans", "start": "words", "cache_gb": 2.0,
}  # fmt: skip


def cards(rng: random.Random, root: Path) -> tuple[str, Callable[[], str | None]]:
    """A broken card file stops nothing; the rest of the registry is there."""
    from vpgtrans_core.registry.registry import Registry
    from vpgtrans_core.registry.switches import Switches

    values, told = changed(CARDS, rng)
    (root / "cards.yaml").write_text(yaml.safe_dump(values))

    def read() -> str | None:
        registry = Registry(Switches(folder=root))
        known = {one.card.alias for one in registry.llms()}
        json.dumps(registry.to_json())
        return None if "opt-2.7b" in known else "the cards that ship are gone"

    return told, read


def experiment(rng: random.Random, root: Path) -> tuple[str, Callable[[], str | None]]:
    from vpgtrans_core.lab.experiment import read_experiment
    from vpgtrans_core.lab.matrix import check_models, distinct
    from vpgtrans_core.registry import default_registry

    values, told = changed(EXPERIMENT, rng)
    (root / "e.yaml").write_text(yaml.safe_dump(values))

    def read() -> str | None:
        read = read_experiment(root / "e.yaml")
        check_models([read], default_registry())
        distinct([read])
        return None

    return told, read


def settings(rng: random.Random, root: Path) -> tuple[str, Callable[[], str | None]]:
    from vpgtrans_core.files import read_yaml
    from vpgtrans_core.settings import build, stages_of

    values, told = changed(SETTINGS, rng)
    (root / "s.yaml").write_text(yaml.safe_dump(values))

    def read() -> str | None:
        stages_of(build(read_yaml(root / "s.yaml")))
        return None

    return told, read


def shards(rng: random.Random, root: Path) -> tuple[str, Callable[[], str | None]]:
    from vpgtrans_core.data.readers.shard_manifest import check_shards

    facts = {"samples": 2, "bytes": 4096, "sha256": "a" * 64}
    values, told = changed({"vpgt_shards": 1, "shards": {"0.tar": facts, "1.tar": facts}}, rng)
    (root / "vpgt-shards.json").write_text(json.dumps(values))
    (root / "0.tar").write_bytes(bytes(4096))

    def read() -> str | None:
        reports = check_shards([root / "0.tar"])
        return None if all(report.damage for report in reports) else "taken as whole"

    return told, read


def raw(rng: random.Random, root: Path) -> tuple[str, Callable[[], str | None]]:
    """Bytes of a settings, card or experiment file changed, cut or doubled."""
    kind = rng.choice((cards, experiment, settings))
    _, read = kind(rng, root)
    (path,) = root.glob("*.yaml")
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content) or 1)
        content[place : place + rng.choice((0, 1, 9))] = rng.choice(
            (b"", b"\0", b"\xff", b"&a [*a]", b"!!python/x ", b"%", b"\t", b"- ", b": ", b"{")
        )
    path.write_bytes(bytes(content))
    return f"{kind.__name__}, bytes", read


KINDS = {kind.__name__: kind for kind in (record, state, manifest, cards, experiment, settings, shards, raw)}
SLOW = ("record", "state", "manifest")


def fault(kind: str, seed: int) -> str | None:
    """Change one file, read it, and say what is wrong with how that ended, or None."""
    rng = random.Random(f"{kind} {seed}")
    with tempfile.TemporaryDirectory() as folder:
        told, read = KINDS[kind](rng, Path(folder))
        try:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                wrong = read()
        except VpgtError as error:
            wrong = None if error.message.strip() else "an error without words"
        except BaseException as error:
            import traceback

            last = traceback.extract_tb(error.__traceback__)[-1]
            wrong = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
    return f"{kind} {seed}: {told}: {wrong}" if wrong else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="*", metavar="KIND", help=f"any of {', '.join(KINDS)}; default all")
    parser.add_argument("--count", type=int, default=100, help="files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    wrong = 0
    for kind in arguments.kind or KINDS:
        faults = [one for n in range(arguments.count) if (one := fault(kind, arguments.seed + n))]
        wrong += len(faults)
        print(f"{kind}: {arguments.count} tried, {len(faults)} with a fault", *faults, sep="\n  ", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
