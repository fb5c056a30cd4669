"""Runs that a stranger has edited: checkpoints whose manifest agrees with them, records, metrics; and models whose
config states sizes that no memory holds, given to each command that opens a model."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.run import tiny_world

Make = Callable[[Path], Path]
PLACE = {"stage": 2, "step": 2}


@cache
def world() -> Path:
    """Tiny models, pictures, and a run that was stopped after two of four steps of stage 2; made once."""
    root = Path(tempfile.mkdtemp())
    tiny_world.save_llm(root / "opt", "opt")
    tiny_world.save_llm(root / "llama", "llama", seed=5)
    tiny_world.save_source(root / "source", root / "opt")
    tiny_world.save_images(root / "data")
    _stopped_run(root)
    return root


def forget() -> None:
    if world.cache_info().currsize:
        shutil.rmtree(world(), ignore_errors=True)
        world.cache_clear()


def _stopped_run(root: Path) -> None:
    from vpgtrans_core.run.pipeline import transfer
    from vpgtrans_core.train.stage import StageRunner

    class Enough(Exception):
        pass

    class Watcher:
        def stage(self, name: str, total: int) -> None: ...
        def message(self, text: str) -> None: ...
        def warning(self, text: str) -> None: ...
        def step(self, advance: int = 1, **values: float) -> None: ...

    count = StageRunner._count

    def counted(self: StageRunner, *given: Any) -> None:
        count(self, *given)
        if (self.plan.number, self.state.step) == (PLACE["stage"], PLACE["step"] + 1):
            raise Enough

    sizes = {"batch_size": 12, "workers": 0, "val_images": 4, "stage1_steps": 1, "stage2_steps": 4, "warmup_steps": 1}
    places = {"source": str(root / "source"), "target": str(root / "llama"), "data": str(root / "data/captions.json")}
    StageRunner._count = counted  # type: ignore[method-assign]
    try:
        transfer(
            out=str(root / "out"),
            checkpoint_steps=1,
            keep_checkpoints=1,
            device="cpu",
            reporter=Watcher(),
            **places,
            **sizes,
        )  # type: ignore[arg-type]
    except Enough:
        return
    finally:
        StageRunner._count = count  # type: ignore[method-assign]
    raise AssertionError("the run was not stopped")


def resumed(path: Path) -> None:
    """Resume the run in a folder."""
    from vpgtrans_core.run.pipeline import transfer

    transfer(out=str(path), resume=True, device="cpu")
    raise AssertionError("taken as good")


# --- what is edited ---


def edited(change: Callable[[Path], None]) -> Make:
    """The stopped run, with a change."""

    def make(root: Path) -> Path:
        shutil.copytree(world() / "out", root / "out")
        change(root / "out")
        return root / "out"

    return make


def record(change: Callable[[dict[str, Any]], Any]) -> Make:
    def apply(out: Path) -> None:
        values = json.loads((out / "run.json").read_text())
        change(values)
        (out / "run.json").write_text(json.dumps(values))

    return edited(apply)


def checkpoint(change: Callable[[Path], Any], name: str = "") -> Make:
    """Its only checkpoint, changed, with a manifest that agrees; `name` is its folder's new one."""

    def apply(out: Path) -> None:
        (folder,) = (out / "checkpoints").glob("stage*")
        change(folder)
        files = ("weights.safetensors", "optimizer.safetensors", "state.json")
        contents = {file: (folder / file).read_bytes() for file in files}
        entries = {f: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for f, c in contents.items()}
        (folder / "manifest.json").write_text(json.dumps(entries))
        folder.rename(folder.with_name(name or folder.name))

    return edited(apply)


def tensors(file: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Make:
    def apply(folder: Path) -> None:
        values = load_file(folder / file)
        change(values)
        save_file(values, folder / file, metadata={"format": "pt"})

    return checkpoint(apply)


def state(change: Callable[[dict[str, Any]], Any], name: str = "") -> Make:
    def apply(folder: Path) -> None:
        values = json.loads((folder / "state.json").read_text())
        change(values)
        (folder / "state.json").write_text(json.dumps(values))

    return checkpoint(apply, name)


def first(values: dict[str, Any], part: str = "") -> str:
    """The first name of a matrix."""
    return next(name for name, value in values.items() if value.dim() > 1 and part in name)


def every(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], None]:
    """Change one tensor."""
    return lambda values: values.__setitem__(first(values), change(values[first(values)]))


def at(step: int, stage: int = 2, **progress: Any) -> Callable[[dict[str, Any]], None]:
    """State another place, everywhere."""
    return lambda values: values.update(stage=stage, step=step, progress=values["progress"] | {"step": step} | progress)


# --- models of absurd sizes ---

LAYERS = {"num_hidden_layers": 10**7}
LARGER = {
    "a wide ViT": {"vision_config": {"hidden_size": 200_000, "intermediate_size": 200_000}},
    "60,000 query tokens": {"num_query_tokens": 60_000, "qformer_config": {"hidden_size": 200_000}},
    "2,000 layers": {"text_config": {"num_hidden_layers": 2000}},
}
"""Sizes that some model might have, but not this one."""


def model(folder: str, changes: dict[str, Any]) -> Make:
    """A model of the tiny world whose config states other sizes than its weights have."""

    def make(root: Path) -> Path:
        shutil.copytree(world() / folder, root / "model")
        config = json.loads((root / "model/config.json").read_text())
        for name, value in changes.items():
            config[name] = config[name] | value if isinstance(value, dict) else value
        (root / "model/config.json").write_text(json.dumps(config))
        Image.new("RGB", (8, 8)).save(root / "a.png")
        (root / "data.json").write_text(json.dumps([{"image": "a.png", "caption": "a cat"}] * 2))
        (root / "coco.json").write_text(
            json.dumps(
                {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "a cat"}]}
            )
        )
        return root / "model"

    return make


def door(*command: str) -> Callable[[Path], None]:
    """Give the model, for ``{}`` in the command, to a command of vpgt's."""

    def read(path: Path) -> None:
        from vpgtrans_core.cli.main import State, app

        named = {"{}": str(path), "source": str(world() / "source"), "llama": str(world() / "llama")}
        app(args=[named.get(word, word) for word in command], obj=State(), standalone_mode=False)
        raise AssertionError("opened as if it were whole")

    return read


DOORS = {
    "plan": ("plan", "--from", "source", "--to", "{}", "--offline"),
    "transfer": (
        "transfer",
        "--from",
        "source",
        "--to",
        "{}",
        "--data",
        "data.json",
        "--out",
        "out",
        "--device",
        "cpu",
    ),
    "import": ("import", "a.pth", "--llm", "{}", "--out", "out"),
}
"""Commands that take a target."""
SOURCE_DOORS = {
    "plan of a source": ("plan", "--from", "{}", "--to", "llama", "--offline"),
    "transfer from a source": ("transfer", "--from", "{}", "--to", "llama", "--data", "data.json", "--out", "out"),
    "caption": ("caption", "{}", "a.png", "--device", "cpu"),
    "chat": ("chat", "{}", "a.png", "--device", "cpu"),
    "inspect": ("inspect", "{}", "a.png", "--device", "cpu"),
    "eval": ("eval", "{}", "--task", "coco", "--data", "coco.json", "--out", "out", "--device", "cpu"),
    "tune": ("tune", "{}", "--data", "data.json", "--out", "out", "--device", "cpu"),
    "export": ("export", "{}", "--to", "hf", "--out", "out"),
    "cache build": ("cache", "build", "--from", "{}", "--data", "data.json", "--cache", "cache", "--device", "cpu"),
}
"""Commands that take a VL-LLM."""

NAN, INF = torch.nan, torch.inf
WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
Cases = dict[str, tuple[Make, Callable[[Path], None]]]

CHECKPOINTS: dict[str, Make] = {
    "weights: NaN": tensors(WEIGHTS, every(lambda t: t * NAN)),
    "weights: infinite": tensors(WEIGHTS, every(lambda t: t + INF)),
    "weights: whole numbers": tensors(WEIGHTS, every(lambda t: t.to(torch.int64))),
    "weights: half precision": tensors(WEIGHTS, every(lambda t: t.half())),
    "weights: another shape": tensors(WEIGHTS, every(lambda t: t.T.contiguous()[1:])),
    "weights: one is missing": tensors(WEIGHTS, lambda v: v.pop(first(v))),
    "weights: all are missing": tensors(WEIGHTS, lambda v: v.clear()),
    "weights: an unknown one": tensors(WEIGHTS, lambda v: v.update(ghost=torch.ones(3))),
    "weights: one of the frozen ViT": tensors(
        WEIGHTS, lambda v: v.update({"vpg.vision_model.embeddings.class_embedding": torch.ones(1, 1, 16)})
    ),
    "optimiser: NaN": tensors(OPTIMIZER, every(lambda t: t * NAN)),
    "optimiser: another shape": tensors(OPTIMIZER, every(lambda t: t[:1].contiguous())),
    "optimiser: a single number": tensors(OPTIMIZER, every(lambda t: t.flatten()[:1].clone())),
    "optimiser: half precision": tensors(OPTIMIZER, every(lambda t: t.half())),
    "optimiser: one is missing": tensors(OPTIMIZER, lambda v: v.pop(first(v))),
    "optimiser: an unknown one": tensors(OPTIMIZER, lambda v: v.update({"ghost/exp_avg": torch.ones(3)})),
    "optimiser: rate NaN": state(lambda v: v["optimizer"]["groups"][0].update(peak_lr="NaN")),
    "optimiser: no groups": state(lambda v: v["optimizer"].update(groups=[])),
    "state: step -5": state(at(-5)),
    "state: another step than its folder": state(at(3)),
    "state: step of 10^15": state(at(10**15), "stage2-1000000000000000"),
    "state: a step beyond the end": state(at(5), "stage2-00000005"),
    "state: done at step 2": state(at(2, done=True)),
    "state: a stage that is not there": state(at(2, stage=9), "stage9-00000002"),
    "state: step is true": state(lambda v: v.update(step=True)),
    "state: two steps": state(lambda v: v["progress"].update(step=1)),
    "state: no progress": state(lambda v: v.pop("progress")),
    "state: unknown progress": state(lambda v: v["progress"].update(more=1)),
    "state: negative size of metrics": state(lambda v: v.update(metrics_size=-1)),
    "state: counts of bad samples as text": state(lambda v: v["feed"]["bad"][0].update(counts={"x": "many"})),
    "state: lengths without numbers": state(lambda v: v["feed"].update(lengths={"lengths": {"long": 3}})),
    "state: begun with nothing": state(lambda v: v.update(begun_with={"data": [3]})),
    "state: 100,000 deep": checkpoint(lambda f: (f / "state.json").write_text('{"stage": 2, "step": ' + "[" * 100_000)),
}
RECORDS: dict[str, Make] = {
    "sources are numbers": record(lambda v: v.update(data={"sources": [3]})),
    "files without a name": record(lambda v: v["data"]["sources"][0].update(files=[{}])),
    "batch is text": record(lambda v: v.update(batch="large")),
    "stages are a list": record(lambda v: v.update(stages=[1])),
    "stage of no number": record(lambda v: v["stages"].update(x={"steps": 1})),
    "what it saw is text": record(lambda v: v["stages"]["1"].update(sight={"loss": "low"})),
    "watched pictures are numbers": record(lambda v: v.update(watched={"examples": [1]})),
    "outputs that are not there": record(lambda v: v.update(narrowed={"units": [-1]})),
    "hashes are a list": record(lambda v: v["target"].update(sha256=["a"])),
    "accepted changes are text": record(lambda v: v.update(accepted_changes="all")),
    "settings: seed is a list": record(lambda v: v["settings"].update(seed=[1])),
    "settings: steps of 10^30": record(lambda v: v["settings"].update(stage2_steps=10**30)),
    "settings: data is /dev/zero": record(lambda v: v["settings"].update(data=["/dev/zero"])),
    "settings: an unknown one": record(lambda v: v["settings"].update(code="import os")),
    "another seed": record(lambda v: v["settings"].update(seed=9)),
}
LINES = b'{"stage": 1}\n[]\n{"stage": {}, "step": 1}\n{"stage": 1, "step": 1, "loss": "low"}\n\xff\xfe{\n'
TAKEN: dict[str, Make] = {
    "metrics.jsonl: lines of noise": edited(lambda out: (out / "metrics.jsonl").write_bytes(LINES * 3)),
}
"""The metrics are only drawn: what is none is left out, and the run goes on."""

CASES: Cases = {
    **{f"checkpoint, {name}": (make, resumed) for name, make in CHECKPOINTS.items()},
    **{f"run.json, {name}": (make, resumed) for name, make in RECORDS.items()},
    **{name: (make, resumed) for name, make in TAKEN.items()},
    **{f"10^7 layers: {name}": (model("llama", LAYERS), door(*command)) for name, command in DOORS.items()},
    **{
        f"10^7 layers: {name}": (model("source", {"text_config": LAYERS}), door(*command))
        for name, command in SOURCE_DOORS.items()
    },
    **{f"{sizes}: caption": (model("source", c), door(*SOURCE_DOORS["caption"])) for sizes, c in LARGER.items()},
}
