"""A full disk in each command that writes: told with the place, the bytes needed and free, and what to do; with room
the same command ends well."""

import json
import re
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.faults import harness
from tests.faults.harness import World

TOLD = re.compile(r"the disk is full.* needs (?:at least )?([\d,]+) bytes.*?([\d,]+)[a-z ]* (?:were|are) free", re.S)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("full"))
    write_conversations(made.root / "data")
    write_experiment(made.root / "experiment.yaml")
    shapes = {"vit": {"num_heads": 2}, "bert": {"num_attention_heads": 2}}
    (made.root / "shapes.json").write_text(json.dumps(shapes))
    pth = ["export", str(made.root / "source"), "--to", "lavis", "--with-vit", "--out", str(made.root / "in.pth")]
    assert harness.run(pth, made.root / "log").code == 0
    return made


def files_up_to(most: int) -> Callable[[], None]:
    """No file may grow beyond so many bytes: what a full disk is to the one that is being written."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def write_conversations(folder: Path) -> None:
    rows = json.loads((folder / "captions.json").read_text())["images"]
    said = [{"from": "human", "value": "<image>\nwhat is it?"}, {"from": "gpt", "value": "a circle"}]
    (folder / "talk.json").write_text(json.dumps([{"image": row["file_name"], "conversations": said} for row in rows]))


def write_experiment(path: Path) -> None:
    pairs = [{"from": "opt-mini-s", "to": "llama-mini"}]
    settings = {"device": "cpu", "val_images": 2, "batch_size": 25, "workers": 0}
    values = {"recipe": "miniature", "vpg": "vpg-mini", "pairs": pairs, "arms": ["merged"], "epochs": 1}
    path.write_text(yaml.safe_dump({**values, "pictures": 12, "settings": settings}))


def commands(root: Path, out: Path) -> dict[str, tuple[list[str], int]]:
    """Each command, and the most bytes of a file with which it cannot end."""
    source, data, talk = str(root / "source"), str(root / "data/captions.json"), str(root / "data/talk.json")
    small = "--batch-size 8 --val-images 2 --workers 0 --device cpu"
    return {
        "export hf": (["export", source, "--to", "hf", "--out", str(out)], 10_000),
        "export vpg": (["export", source, "--to", "vpg", "--out", str(out)], 10_000),
        "export vpg, a small file": (["export", source, "--to", "vpg", "--out", str(out)], 300),
        "export lavis": (["export", source, "--to", "lavis", "--out", f"{out}.pth"], 10_000),
        "cache build": (
            ["cache", "build", "--from", source, "--data", data, "--cache", str(out), *small.split()[4:]],
            2000,  # without workers, whose shared memory the limit would meet, too
        ),
        "tune": (
            ["tune", "opt-mini-s", "--data", talk, "--out", str(out), *small.split(), "--steps", "2"],
            10_000,
        ),
        "tune, its first record": (["tune", "opt-mini-s", "--data", talk, "--out", str(out)], 800),
        "lab run, its first record": (["lab", "run", str(root / "experiment.yaml"), "--out", str(out)], 800),
        "lab run, its pictures": (["lab", "run", str(root / "experiment.yaml"), "--out", str(out)], 2000),
        "eval, its answers": (evaluation(out), 700),
        "eval, its result": (evaluation(out), 3000),
        "import": (
            ["import", f"{root}/in.pth", "--llm", f"{root}/opt", "--shapes", f"{root}/shapes.json", "--out", str(out)],
            10_000,
        ),
    }


def evaluation(out: Path) -> list[str]:
    few = "--task mini-captions --limit 16 --num-beams 1 --max-new-tokens 8 --device cpu"
    return ["eval", "opt-mini-s", *few.split(), "--out", str(out)]


NAMES = tuple(commands(Path(), Path()))


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_told(name: str, world: World, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    command, most = commands(world.root, out)[name]
    ending = harness.run(command, log, files_up_to(most))
    assert ending.code == 2 and "Traceback" not in ending.said, ending.said
    told = TOLD.search(ending.said)
    assert told, ending.said
    assert int(told[1].replace(",", "")) > most and int(told[2].replace(",", "")) > 0
    assert str(out) in ending.said and "make room" in ending.said
    if command[0] == "tune":
        assert "--resume --out" in ending.said
        command = [*command, "--resume"]
    if command[0] != "lab":
        ending = harness.run(command, log)
        assert ending.code == 0, ending.said
