"""The checks of a VPG family. Each raises `CheckFailed` with the reason; all run on a tiny random VPG, offline."""

from __future__ import annotations

import copy
import json
import shutil
from typing import Any

import torch
from torch import Tensor, nn

from vpgtrans_core.errors import VpgtError
from vpgtrans_core.files import REFERENCES
from vpgtrans_core.testing.checks import Check, CheckFailed, check, expect, expect_known_declarations
from vpgtrans_core.testing.opening import (
    expect_active,
    expect_declared_rightly,
    expect_no_heavy_import,
    in_new_process,
)
from vpgtrans_core.testing.plain import difference
from vpgtrans_core.testing.tiny_models import save_pictures
from vpgtrans_core.testing.transferring import expect_the_same_again
from vpgtrans_core.testing.vpg_subject import VPGSubject
from vpgtrans_core.vpg.adapter import VPG
from vpgtrans_core.weights import Weights, save_tensors

NEAR = 1e-4
WHOLE = "whole_model_comes_back"
DESCRIBED = ("num_prompts", "output_size", "feature_shape", "image_size", "frozen", "trained")

VPG_CHECKS: list[Check] = []


@check(VPG_CHECKS, "the plugin's __init__.py: import torch in the adapter's module only")
def torch_free_import(subject: VPGSubject) -> None:
    """The plugin's module and hooks load without torch."""
    expect_no_heavy_import(subject.opened)


@check(VPG_CHECKS, "the hook vpgt_vpg_families")
def description_resolves(subject: VPGSubject) -> None:
    """The plugin is active; its family and adapter are what they must be."""
    expect_active(subject.opened)
    expect_known_declarations(subject.unsupported, VPG_CHECKS)
    expect_declared_rightly(subject.opened)
    adapter = subject.adapter
    expect(isinstance(adapter, type) and issubclass(adapter, VPG), f"{subject.family.adapter} is not a subclass of VPG")
    missing = sorted(getattr(adapter, "__abstractmethods__", ()))
    expect(not missing, f"the adapter does not define {', '.join(missing)}", subject.family.adapter)


@check(VPG_CHECKS, "the attributes num_prompts, output_size, feature_shape and preprocessing")
def shapes_are_as_stated(subject: VPGSubject) -> None:
    """Features and outputs have the shapes that the attributes say, and the outputs are fp32."""
    vpg = subject.vpg
    features = vpg.features(subject.pixels)
    wanted: tuple[int, ...] = (len(features), *vpg.feature_shape)
    expect(tuple(features.shape) == wanted, f"features are {tuple(features.shape)}, feature_shape says {wanted}")
    output = vpg.prompts(features)
    wanted = (len(features), vpg.num_prompts, vpg.output_size)
    expect(tuple(output.shape) == wanted, f"prompts are {tuple(output.shape)}, the attributes say {wanted}")
    expect(output.dtype == torch.float32, f"prompts are {output.dtype}, not float32", "the adapter's `prompts`")
    gap = difference(vpg(subject.pixels), output)
    expect(gap < NEAR, f"forward differs from prompts(features(pixels)) by {gap:.2g}", "the adapter's `forward`")


@check(VPG_CHECKS, "the adapter's `describe`")
def description_counts_right(subject: VPGSubject) -> None:
    """`describe` tells a folder's sizes from its config alone, as they are."""
    said = subject.adapter.describe(json.loads((subject.folder / "config.json").read_text(encoding="utf-8")))
    missing = [name for name in DESCRIBED if name not in said]
    expect(not missing, f"describe leaves out {', '.join(missing)}")
    vpg = subject.vpg
    trained = sum(p.numel() for _, p in vpg.trained())
    true = {
        "num_prompts": vpg.num_prompts,
        "output_size": vpg.output_size,
        "feature_shape": tuple(vpg.feature_shape),
        "image_size": vpg.preprocessing.size,
        "trained": trained,
        "frozen": sum(p.numel() for p in vpg.parameters()) - trained,
    }
    found = {**said, "feature_shape": tuple(said["feature_shape"])}
    wrong = [f"{name} is {value}, not {found[name]}" for name, value in true.items() if found[name] != value]
    expect(not wrong, "; ".join(wrong))


@check(VPG_CHECKS, "the adapter's `features` and `prompts`: norms over the batch, or state that is kept")
def batching_changes_nothing(subject: VPGSubject) -> None:
    """Each image alone gives what it gives in a batch."""
    with torch.no_grad():
        whole = subject.vpg(subject.pixels)
        alone = torch.cat([subject.vpg(subject.pixels[[i]]) for i in range(len(subject.pixels))])
    gap = difference(whole, alone)
    expect(gap < NEAR, f"an image's output depends on its batch: it differs by {gap:.2g}")


@check(VPG_CHECKS, "the preprocessing's `tiles`, `count` and `runs`, and the adapter's `arrange`")
def tiles_are_as_stated(subject: VPGSubject) -> None:
    """Pictures that are cut have the tiles and soft prompts that follow from their sizes, each as it has alone."""
    vpg, images = subject.vpg, subject.vpg.preprocessing
    if not images.tiled:
        return
    stated = [images.count(*size) for size in subject.tiles.sizes]
    expect(list(subject.tiles.counts) == stated, f"pictures have {subject.tiles.counts} tiles, `count` says {stated}")
    with torch.no_grad():
        outputs = subject.tiles.change(vpg)
        arranged = vpg.arrange(outputs)
        alone = [part for picture in outputs for part in vpg.arrange(picture)]
    promised = [sum(run for run in images.runs(*size) if isinstance(run, int)) for size in outputs.sizes]
    given = [len(part) for part in arranged]
    expect(given == promised, f"pictures have {given} soft prompts, `runs` says {promised}")
    same = all(torch.equal(part, own) for part, own in zip(arranged, alone, strict=True))
    expect(same, "what `arrange` gives of a picture depends on the others")


@check(VPG_CHECKS, "the adapter's `features`, and `train`: the frozen part must stay in evaluation mode")
def features_are_frozen(subject: VPGSubject) -> None:
    """Features have no gradient and no chance in them, in training mode too: a cache may keep them."""
    vpg = subject.make()
    wanted = vpg.features(subject.pixels)
    for _, parameter in vpg.trained():
        parameter.requires_grad_(True)
    vpg.train()
    found = [vpg.features(subject.pixels) for _ in range(2)]
    expect(not found[0].requires_grad, "features carry a gradient", "the adapter's `features`: torch.no_grad()")
    same = all(torch.equal(f, wanted) for f in found)
    expect(same, "features change in training mode: dropout or a norm of the frozen part is on")


@check(VPG_CHECKS, "the adapter's `trained` and `prompts`")
def gradients_only_where_trained(subject: VPGSubject) -> None:
    """What `trained` names gets gradients, and nothing else does; before training nothing wants one."""
    vpg = subject.make()
    wanting = [name for name, p in vpg.named_parameters() if p.requires_grad]
    expect(not wanting, f"parameters of a new VPG want gradients: {', '.join(wanting[:3])}", "the adapter's __init__")
    own, trained = dict(vpg.named_parameters()), dict(vpg.trained())
    expect(trained, "`trained` names nothing: stage 2 would train the projector alone")
    strange = [name for name, p in trained.items() if own.get(name) is not p]
    expect(not strange, f"`trained` gives other names than the module's own: {', '.join(strange[:3])}")
    vpg.requires_grad_(True)
    subject.outputs(vpg).square().sum().backward()
    reached = {name for name, p in own.items() if p.grad is not None}
    left_out = sorted(reached - set(trained))
    expect(not left_out, f"`prompts` uses parameters that `trained` leaves out: {', '.join(left_out[:3])}")
    idle = sorted(set(trained) - reached)
    expect(not idle, f"`trained` names what no gradient reaches: {', '.join(idle[:3])}")


@check(VPG_CHECKS, "the adapter's `load`: dtype is that of the frozen part")
def half_precision_is_for_the_frozen_part(subject: VPGSubject) -> None:
    """Loaded in bfloat16, what is trained stays in fp32, and so does the output."""
    vpg = subject.adapter.load(subject.folder, dtype=torch.bfloat16)
    trained = dict(vpg.trained())
    wrong = [name for name, p in trained.items() if p.dtype != torch.float32]
    expect(not wrong, f"trained parameters are loaded in {trained[wrong[0]].dtype}: {wrong[:3]}" if wrong else "")
    frozen = [name for name, p in vpg.named_parameters() if name not in trained and p.dtype != torch.bfloat16]
    expect(not frozen, f"frozen parameters are not loaded in bfloat16: {', '.join(frozen[:3])}")
    features = vpg.features(subject.pixels)
    for mixed in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            output = vpg.prompts(features)
        said = f"the output is {output.dtype}" + (" under autocast" if mixed else "")
        expect(output.dtype == torch.float32, said, "the adapter's `prompts`")


@check(VPG_CHECKS, "the adapter's `save_part`, `load` and `load_projector`")
def saving_and_loading_keep_every_bit(subject: VPGSubject) -> None:
    """The folder without the LLM gives back VPG, projector and references, bit for bit, and is safetensors only."""
    again = subject.adapter.load(subject.folder)
    expect(not again.training, "a loaded VPG is in training mode", "the adapter's `load`")
    old, new = subject.vpg.state_dict(), again.state_dict()
    changed = [n for n in old if n not in new or not torch.equal(old[n], new[n])]
    expect(not changed and len(old) == len(new), f"tensors changed: {', '.join(changed[:3])}")
    expect(torch.equal(again(subject.pixels), subject.vpg(subject.pixels)), "the output changed")
    expect(again.preprocessing == subject.vpg.preprocessing, "the preprocessing changed")
    _expect_projector(subject, subject.folder)
    kept = json.loads((subject.folder / REFERENCES).read_text(encoding="utf-8"))
    wanted = {"folder": str(subject.llm("source"))}
    expect(kept.get("llm") == wanted, f"{REFERENCES} says {kept.get('llm')} of the LLM, not {wanted}")
    alone = subject.empty("alone")
    subject.vpg.save_part(alone, None, references={})
    expect(subject.adapter.load_projector(alone) is None, "a folder without projector gives one")
    expect(not list(subject.folder.glob("*.bin")), "weights are written as pickles")


@check(VPG_CHECKS, "the adapter's `load`: use vpgtrans_core.weights.load_strict")
def damaged_folders_are_refused(subject: VPGSubject) -> None:
    """A folder that lacks a tensor, or has one of a wrong shape, is refused with its name."""
    for damage in ("lacks", "misshapes"):
        folder = subject.empty(damage)
        subject.vpg.save_part(folder, subject.projector, references={})
        weights = Weights(folder)
        tensors = {name: weights.read(name).clone() for name in weights}
        victim = next(name for name in tensors if any(name.endswith(n) for n, _ in subject.vpg.trained()))
        tensors[victim] = torch.zeros(*tensors[victim].shape, 2)
        if damage == "lacks":
            del tensors[victim]
        for file in folder.glob("*.safetensors"):
            file.unlink()
        save_tensors(folder / "model.safetensors", tensors)
        try:
            subject.adapter.load(folder)
        except VpgtError as error:
            part = victim.rpartition(".")[2]
            expect(part in str(error), f"the error does not name the tensor {victim}: {error}")
        else:
            raise CheckFailed(f"a folder that {damage} {victim} is loaded without an error")


@check(VPG_CHECKS, "the adapter's `save_model`", optional=True)
def whole_model_comes_back(subject: VPGSubject) -> None:
    """The folder of the whole VL-LLM gives back VPG and projector. (In the LLM's space: what the projector reaches.)"""
    folder = subject.whole
    expect(subject.adapter.loading_code, "loading_code is empty: nobody learns how the folder is loaded", "the adapter")
    again = subject.adapter.load(folder)
    old, new = subject.vpg.state_dict(), again.state_dict()
    changed = [n for n in old if n not in new or not _comes_back(new[n], old[n], subject.projector)]
    expect(not changed, f"tensors of the VPG came back changed: {', '.join(changed[:3])}")
    gap = difference(again(subject.pixels), subject.vpg(subject.pixels))
    expect(gap < NEAR, f"the VPG of the whole model gives other outputs: {gap:.2g}")
    _expect_projector(subject, folder)


@check(VPG_CHECKS, "the adapter's `loading_code`, and the processor that `save_model` writes", follows=WHOLE)
def card_says_what_vpgt_caption_says(subject: VPGSubject) -> None:
    """The Python of the model card, run by a new process without vpgt, says what `vpgt caption` says."""
    from vpgtrans_core.settings import Settings
    from vpgtrans_core.vlm.captioning import caption

    home, registry = subject.whole.parent, subject.opened.registry
    save_pictures(home / "pictures")
    picture = home / "picture.png"
    shutil.copyfile(home / "pictures" / "images" / "0.png", picture)
    alone = in_new_process(subject.adapter.loading_code.format(folder=subject.whole.name), home)
    folder, settings = subject.opened.named(subject.whole), Settings(device="cpu")
    mine = caption(folder, [picture], settings=settings, registry=registry)[0].text
    expect(alone == mine.strip(), f"the model card's Python prints {alone!r}, `vpgt caption` {mine!r}")


@check(VPG_CHECKS, "the run's message; then the checks above, of which one may have failed for the same cause")
def transfer_of_two_steps(subject: VPGSubject) -> None:
    """A whole transfer from one LLM to another runs; it trains what `trained` names and nothing else, and speaks."""
    again = subject.adapter.load(subject.transferred / "out")
    trained, old = {name for name, _ in again.trained()}, subject.vpg.state_dict()
    moved = {name for name, value in again.state_dict().items() if not torch.equal(value, old[name])}
    expect(moved & trained, "stage 2 changed nothing of what `trained` names")
    expect(moved <= trained, f"frozen tensors changed: {', '.join(sorted(moved - trained)[:3])}")


@check(VPG_CHECKS, "the adapter's `save_part` and `load`, and the check above")
def output_loads_in_a_new_process(subject: VPGSubject) -> None:
    """A new process loads what the transfer wrote, and says of a picture what this one says."""
    expect_the_same_again(subject.opened, subject.transferred)


def _comes_back(new: Tensor, old: Tensor, projector: nn.Linear) -> bool:
    """Whether a tensor is what it was, or is outputs that give the soft prompts which they gave."""
    if new.shape != old.shape or difference(new, old) <= NEAR:
        return new.shape == old.shape
    with torch.no_grad():
        return old.shape[-1:] == (projector.in_features,) and difference(projector(new), projector(old)) <= NEAR


def _expect_projector(subject: VPGSubject, folder: Any) -> None:
    found, state = subject.adapter.load_projector(folder), copy.copy(subject.projector.state_dict())
    expect(found is not None, "the projector did not come back", "the adapter's `load_projector`")
    wanted = (state["weight"], state.get("bias", torch.zeros(len(state["weight"]))))
    same = all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))
    expect(same, "the projector came back changed", "the adapter's `load_projector`")
