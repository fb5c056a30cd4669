"""Experiment files: what they become, and what is refused; the files that ship."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.house.sources import ROOT
from vpgtrans_core.errors import ConfigError, ModelError
from vpgtrans_core.lab.experiment import Pair, read_experiment
from vpgtrans_core.lab.folder import DONE, LabFolder
from vpgtrans_core.lab.matrix import cells, check_models, distinct
from vpgtrans_core.lab.paper import table
from vpgtrans_core.lab.planning import cell_cost, kind, plan_cells, seconds_here
from vpgtrans_core.registry import default_registry

SHIPPED = sorted((ROOT / "lab").glob("*/*.yaml"))
GOOD = {
    "recipe": "miniature",
    "vpg": "vpg-mini",
    "pairs": [{"from": "opt-mini-s", "to": "llama-mini"}],
    "arms": ["scratch", "transfer"],
}


def write(folder: Path, **changes) -> Path:
    path = folder / "one.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return path


def test_a_matrix_is_source_target_arm_and_seed(tmp_path):
    experiment = read_experiment(write(tmp_path, seeds=[0, 1], sources=["opt-mini-s"], targets=["opt-mini-l"]))
    found = cells(experiment)
    assert {(c.source, c.target, c.arm, c.seed) for c in found} == {
        (source if arm == "transfer" else "vpg-mini", target, arm, seed)
        for source, target in (("opt-mini-s", "llama-mini"), ("opt-mini-s", "opt-mini-l"))
        for arm in ("scratch", "transfer")
        for seed in (0, 1)
    }


def test_sources_share_the_run_from_scratch_and_experiments_share_cells(tmp_path):
    one = read_experiment(write(tmp_path, made={"mine": {"llm": "t5-mini"}}))
    both = replace(one, pairs=(*one.pairs, Pair("mine", "llama-mini")))
    assert [c.arm for c in cells(both)].count("scratch") == 1
    made = next(c for c in cells(both) if c.arm == "source")
    assert {c.needs for c in cells(both) if c.source == "mine"} == {made.id} and made.target == "t5-mini"
    assert set(distinct([one, replace(both, name="two")])) == {c.id for c in cells(both)}
    assert next(iter(distinct([both]).values())).needs == ""


def test_what_a_cell_is_is_in_its_name(tmp_path):
    one = read_experiment(write(tmp_path))
    names = {c.id for c in cells(one)}
    assert names == {c.id for c in cells(replace(one, name="other", about="words", price=1.0))}
    for changed in (replace(one, epochs=2.0), replace(one, settings={"clip_norm": 2.0}), replace(one, pictures=7)):
        assert names.isdisjoint(c.id for c in cells(changed))


def test_the_arms_differ_in_what_they_say(tmp_path):
    arms = ["transfer", "warm-up-1x", "warm-up-10x", "inherit", "linear", "merged"]
    experiment = read_experiment(write(tmp_path, arms=arms, epochs=4, warm_up_epochs=1))
    by_arm = {c.arm: c.settings for c in cells(experiment)}
    assert by_arm["warm-up-10x"]["stage1_lr"] == pytest.approx(10 * by_arm["warm-up-1x"]["stage1_lr"])
    assert by_arm["transfer"]["stage1_epochs"] == 1 and by_arm["transfer"]["stage2_epochs"] == 3
    assert by_arm["inherit"]["stage2_epochs"] == 4 and by_arm["linear"]["stage1_epochs"] == 4
    assert by_arm["merged"]["stage1_epochs"] == 0 and by_arm["merged"]["stages"] == [1]


def test_an_experiment_may_define_an_arm(tmp_path):
    own = {"strong": {"title": "strong decay", "settings": {"weight_decay": 0.5}, "length": "both", "rate": 2.0}}
    experiment = read_experiment(write(tmp_path, define=own, arms=["strong"]))
    (cell,) = cells(experiment)
    assert cell.settings["weight_decay"] == 0.5 and experiment.arm("strong").title == "strong decay"
    assert cell.settings["stage1_lr"] == pytest.approx(2 * cell.settings["stage2_lr"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sedes": [1]}, "unknown key 'sedes'; did you mean 'seeds'?"),
        ({"arms": ["transfr"]}, "unknown arm 'transfr'; did you mean 'transfer'?"),
        ({"pairs": [{"from": "opt-mini-s"}]}, "has no from and to"),
        ({"pairs": [{"from": "a", "to": "b", "tow": "c"}]}, "unknown key 'tow'"),
        ({"pairs": [{"from": "a", "to": "b", "paper": "OPT 125M -> 350"}]}, "did you mean 'OPT 125M -> 350M'"),
        ({"pairs": None}, "nothing to run"),
        ({"epochs": 1, "warm_up_epochs": 2}, "warm_up_epochs: must not be more than epochs"),
        ({"settings": {"clip_nrom": 1}}, "settings: unknown setting 'clip_nrom'"),
        ({"settings": {"seed": 1}}, "settings: seed is the lab's own"),
        ({"vpg": ""}, "the arm scratch starts from a pre-trained VPG"),
        ({"made": {"mine": {}}}, "made: mine: the key llm is missing"),
        ({"tasks": {"mini-captions": {"limt": 3}}}, "tasks: mini-captions: unknown key 'limt'"),
        ({"pictures": 10, "settings": {"data": "x"}}, "pictures and data: give one of the two"),
        ({"define": {"own": {"settings": {"method": "no"}}}, "arms": ["own"]}, "define: own: method: must be one of"),
    ],
)
def test_wrong_files_are_refused(tmp_path, changes, told):
    with pytest.raises(ConfigError) as caught:
        read_experiment(write(tmp_path, **changes))
    assert told in str(caught.value) and "one.yaml" in str(caught.value)


def test_all_problems_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_experiment(write(tmp_path, sedes=[1], epochs="many", tasks=3))
    assert len(caught.value.problems) == 3


def test_unknown_models_and_tasks_are_refused(tmp_path):
    unknown = read_experiment(write(tmp_path, pairs=[{"from": "opt-mini-s", "to": "lama-mini"}]))
    with pytest.raises(ModelError, match="llama-mini"):
        check_models([unknown], default_registry())
    task = read_experiment(write(tmp_path, tasks=["mini-caption"]))
    with pytest.raises(ConfigError, match="mini-caption"):
        check_models([task], default_registry())


def test_a_model_beside_the_file_is_looked_up_there(tmp_path):
    experiment = read_experiment(write(tmp_path, made={"mine": {"llm": "./llm"}}, targets=["./llm"], sources=["mine"]))
    assert experiment.made["mine"].llm == experiment.targets[0] == str(tmp_path.resolve() / "llm")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_experiments_that_ship_can_be_read(path):
    assert cells(read_experiment(path))


@pytest.mark.parametrize("scale", ["miniature", "paper"])
def test_every_row_of_the_papers_table_has_a_counterpart(scale):
    experiments = [read_experiment(path) for path in SHIPPED if path.parent.name == scale]
    assert {row for one in experiments for pair in one.all_pairs() for row in pair.paper} == set(table())


def test_the_miniature_has_three_sizes_of_source_and_target():
    miniature = {path.stem: read_experiment(path) for path in SHIPPED if path.parent.name == "miniature"}
    check_models(list(miniature.values()), default_registry())
    named = [name for one in miniature.values() for name in (*one.targets, *(made.llm for made in one.made.values()))]
    assert all((Path(name) / "config.json").is_file() for name in named if "/" in name)  # those of lab/miniature/zoo
    assert len(miniature["sizes"].sources) == len(miniature["targets"].targets) == 3
    names = ("speedups", "small-types", "targets")
    sources = {cell.id for name in names for cell in cells(miniature[name]) if cell.arm == "source"}
    assert len(sources) == 3  # shared between the experiments, as the cells from scratch are


def test_seconds_are_those_of_cells_like_it(tmp_path):
    one = read_experiment(write(tmp_path, arms=["scratch", "transfer", "merged"], seeds=[0, 1], targets=["opt-mini-l"],
                                sources=["opt-mini-s"]))  # fmt: skip
    lab, known = LabFolder(tmp_path / "lab"), distinct([one])
    assert seconds_here(lab, known) == {}
    lab.path.mkdir()
    lab.write_experiments([one])
    done = next(c for c in known.values() if (c.arm, c.target, c.seed) == ("transfer", "llama-mini", 0))
    lab.write_record(done.id, status=DONE, cpu_seconds=40.0)
    found = seconds_here(lab, known)
    assert {known[name].arm for name in found} == {"scratch", "transfer"} and set(found.values()) == {40.0}
    other = next(c for c in known.values() if (c.arm, c.target, c.seed) == ("scratch", "opt-mini-l", 0))
    lab.write_record(other.id, status=DONE, cpu_seconds=60.0)
    found = seconds_here(lab, known)
    assert {(known[n].target, s) for n, s in found.items()} == {("llama-mini", 40.0), ("opt-mini-l", 60.0)}
    rows = plan_cells([one], default_registry(), lab, jobs=2)
    assert rows[-1] == ("together, on this machine with --jobs 2, without 4 of unknown length", "", "", "3 min")


@pytest.mark.slow
def test_every_cell_at_the_papers_scale_plans():
    experiments = [read_experiment(path) for path in SHIPPED if path.parent.name == "paper"]
    offline = [replace(one, settings={**one.settings, "offline": True}) for one in experiments]
    check_models(offline, default_registry())
    kinds = {kind(cell): cell for cell in distinct(offline).values()}
    assert len(kinds) > 20
    for cell in kinds.values():
        cost = cell_cost(cell, default_registry())
        assert cost.gpu_hours > 0 or cell.arm in ("merged", "advice"), cell.id
