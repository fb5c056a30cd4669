"""The benchmark commands run at tiny shapes and print what they promise."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.conftest import BENCHMARKS
from tests.warm import WarmProcess

RUN = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


def run(script: str, *arguments: str) -> str:
    process = WarmProcess(RUN, [str(BENCHMARKS / script), *arguments], path=[str(BENCHMARKS)])
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return out


def test_what_is_wrong_is_told_without_a_traceback() -> None:
    with pytest.raises(AssertionError, match="did you mean 'llama-mini'") as caught:
        run("captions_needed.py", "--targets", "lama-mini")
    assert "Traceback" not in str(caught.value).split("did you mean")[0]


def test_steps(tmp_path: Path) -> None:
    out = run(
        "steps.py", "--tiny", "--headline", "--rounds", "1", "--images", "2", "--json", str(tmp_path / "steps.json")
    )
    record = json.loads((tmp_path / "steps.json").read_text())
    assert {r["shape"] for r in record["results"]} == {"tiny-opt", "tiny-llama", "tiny-t5"}
    plain, tree = (
        next(r for r in record["results"] if r["shape"] == "tiny-llama" and r["name"] == name)
        for name in ("plain", "cached: tree, head")
    )
    assert plain["speedup"] == 1 and tree["tflop"] < plain["tflop"]
    assert record["hours_of_the_papers_data"]["tiny-opt"]["plain"] > 0
    assert "| tiny-t5 | 5 | 2 | features cached, tree |" in out


def test_steps_of_one_family(tmp_path: Path) -> None:
    out = run("steps.py", "--tiny", "--family", "opt", "--rounds", "1", "--only", "tree")
    assert "tiny-opt" in out and "tiny-t5" not in out and "packed rows" not in out


def test_one_caption_an_image() -> None:
    out = run(
        "steps.py", "--tiny", "--family", "llama", "--rounds", "1", "--images", "4", "--captions", "1", "--headline"
    )
    assert "| tiny-llama | 1 | 1 | first epoch: VPG once, tree |" in out


def test_the_levers_for_a_gpu(tmp_path: Path) -> None:
    """The command that makes the table of one GPU, at tiny shapes on a CPU."""
    options = ("--device", "cpu", "--tiny", "--steps", "3", "--captions-a-step", "10")
    out = run("one_gpu.py", *options, "--json", str(tmp_path / "gpu.json"))
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {row["shape"] for row in rows} == {"tiny-llama", "tiny-opt", "tiny-t5"}
    assert {row["captions"] for row in rows} == {1, 5} and {row["stage"] for row in rows} == {1, 2}
    of = {(r["shape"], r["captions"], r["stage"], r["way"]): r for r in rows}
    for (shape, captions, stage, way), row in of.items():
        plain = of[shape, captions, stage, "plain"]
        assert row["loss"] == pytest.approx(plain["loss"], rel=0.01 if "float8" in way else 1e-5)
        assert row["captions_per_second"] > 0 and row["first"] > 0
    assert all(of[key]["shapes"] <= of[(*key[:3], "before")]["shapes"] for key in of if key[3] == "rounded")
    assert "| tiny-t5 | 1 | 2 | rounded, float8 |" in out


def test_the_ways_on_a_gpu() -> None:
    import torch
    from one_gpu import ways

    names = [way.name for way in ways(torch.device("cuda"), float8=True)]
    assert names == [
        "plain", "before", "before, compiled", "rounded", "rounded, compiled", "rounded, compiled, ViT too",
        "rounded, compiled, ViT too, float8",
    ]  # fmt: skip
    assert [way.name for way in ways(torch.device("cuda"), float8=False)] == names[:-1]


@pytest.mark.slow
def test_whole_run(tmp_path: Path) -> None:
    options = ("--shape", "tiny-opt", "--pictures", "80", "--batch-size", "20", "--steps", "5", "4", "--workers", "1")
    out = run("whole_run.py", *options, "--json", str(tmp_path / "runs.json"))
    rates = json.loads((tmp_path / "runs.json").read_text())
    assert [(r["run"], r["stage"]) for r in rates] == [(f"{n} run", s) for n in ("first", "second") for s in (1, 2)]
    assert all(r["captions_per_second"] > 0 and 0 <= r["waiting"] < 1 for r in rates)
    assert rates[0]["last_loss"] == pytest.approx(rates[2]["last_loss"], rel=1e-4)
    assert "| second run | 2 | " in out


def test_eval_cache(tmp_path: Path) -> None:
    run("eval_cache.py", "--pictures", "3", "--width", "64", "--layers", "1", "--json", str(tmp_path / "cache.json"))
    rows = json.loads((tmp_path / "cache.json").read_text())
    assert [row["run"] for row in rows] == ["no cache", "cache, empty", "cache, full"]
    assert all(row["same"] and row["seconds"] > 0 for row in rows)


def test_cold_start(tmp_path: Path) -> None:
    every = ("--help", "list-models", "cache build --help")
    named = [f"--command={command}" for command in every]
    run("cold_start.py", "--runs", "1", "--json", str(tmp_path / "start.json"), *named)
    results = json.loads((tmp_path / "start.json").read_text())
    assert [r["command"] for r in results] == list(every) and not any(r["torch"] for r in results)


def test_cold_start_sees_torch_and_knows_all_commands() -> None:
    """The control for `torch: no`, and the list of what is timed by default."""
    from cold_start import commands, imports_torch

    every = [" ".join(command) for command in commands()]
    assert {"--help", "list-plugins", "transfer --help", "cache --help"} <= set(every)
    assert imports_torch(["doctor"])


@pytest.mark.slow
def test_warm_up(tmp_path: Path) -> None:
    options = ("--targets", "llama-mini", "--seeds", "0", "--steps", "2", "--limit", "116")
    out = run("warm_up.py", *options, "--json", str(tmp_path / "warm.json"))
    (result,) = json.loads((tmp_path / "warm.json").read_text())
    curves = result["curves"]
    assert list(curves["ours"]) == ["0", "1", "2"] and list(curves["the paper's"]) == ["0", "2"]
    assert result["reached"] == next(int(s) for s, x in curves["ours"].items() if x <= curves["the paper's"]["2"])
    assert curves["ours"]["0"] < curves["the paper's"]["0"]
    assert "reached after" in out and "| ours, pairs shuffled | " in out


def test_first_step_at_the_papers_end() -> None:
    from warm_up import first_step, verdict

    assert first_step({0: 3.0, 1: 2.0, 2: 1.0}, 2.0) == 1 and first_step({0: 3.0}, 2.0) is None
    assert verdict([{"steps": 20, "reached": 1}, {"steps": 20, "reached": 3}]).endswith("after 1, 3: 10% of them")
    assert "not reached by every seed" in verdict([{"steps": 20, "reached": 1}, {"steps": 20, "reached": None}])


@pytest.mark.slow
def test_batches(tmp_path: Path) -> None:
    options = ("--steps", "1", "1", "--limit", "116", "--pictures", "4", "--seeds", "0", "--validate-every", "1")
    ways = ("grouped", "one caption a visit", "augmented, 4 cached views")
    out = run("batches.py", *options, "--ways", *ways, "--json", str(tmp_path / "batches.json"))
    rows = {row["method"]: row for row in json.loads((tmp_path / "batches.json").read_text())}
    assert list(rows) == list(ways) and all(way in out for way in ways)
    assert rows["grouped"]["captions"] == 5 * rows["grouped"]["images"] > 0
    assert rows["one caption a visit"]["captions"] == rows["one caption a visit"]["images"]
    assert all(
        row["held_out_loss"] <= row["goal"] and row["seconds_to_goal"] <= row["seconds"] for row in rows.values()
    )


def test_time_to_a_held_out_loss() -> None:
    from batches import add_time_to_goal, held_out_losses

    step = {"seconds": 2.0, "waited": 0.5}
    looks = held_out_losses([{"held_out_loss": 3.0}, step, step, {"held_out_loss": 1.0}, step, {"held_out_loss": 0.5}])
    assert looks == [(0.0, 3.0), (5.0, 1.0), (7.5, 0.5)]
    rows = [
        {"method": "grouped", "looks": looks, "held_out_loss": 0.5},
        {"method": "one caption a visit", "looks": [(9.0, 1.5)], "held_out_loss": 1.5},
        {"method": "augmented, fresh", "looks": [(8.0, 2.0)], "held_out_loss": 2.0},
    ]
    add_time_to_goal(rows)
    assert [row["seconds_to_goal"] for row in rows] == [5.0, 9.0, 8.0]


@pytest.mark.slow
def test_shards_give_the_same_results(tmp_path: Path) -> None:
    out = run(
        "sharding.py", "same", "--targets", "llama-mini", "--processes", "2", "--json", str(tmp_path / "same.json")
    )
    (row,) = json.loads((tmp_path / "same.json").read_text())
    assert row["loss"] <= 1e-5 and row["weight"] <= 1e-6 and "| llama-mini | 2 | " in out


@pytest.mark.slow
def test_shards_take_what_is_foreseen(tmp_path: Path) -> None:
    """By the plan's arithmetic within 15 %, and what libraries take when they are used first."""
    options = ("--billions", "0.2", "--processes", "2")
    run("sharding.py", "memory", *options, "--json", str(tmp_path / "memory.json"))
    whole, shard = json.loads((tmp_path / "memory.json").read_text())
    assert [row["held"] for row in (whole, shard)] == ["copies", "shards"]
    for row in (whole, shard):
        assert abs(row["measured"] - row["foreseen"]) < 0.15 * row["foreseen"] + 100e6
    assert shard["measured"] < 0.8 * whole["measured"]
