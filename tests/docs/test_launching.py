"""The recipes of docs/launching.md: their files parse, and every flag exists in the launcher and in vpgt."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from tests.docs.documents import blocks, shell_lines
from tests.docs.test_commands import arguments, parse

DOCUMENT = "docs/launching.md"
STARTS = ("torchrun ", "accelerate launch ")


def task() -> dict:
    (text,) = blocks(DOCUMENT, "yaml")
    return yaml.safe_load(text)


def script() -> str:
    (text,) = blocks(DOCUMENT, "bash")
    return text


def inner() -> str:
    """The torchrun line inside the SLURM script."""
    (line,) = [line for line in script().splitlines() if line.startswith("srun ")]
    *_, shell = shlex.split(line)
    return shell.removeprefix("exec ")


LINES = [line for line in shell_lines(DOCUMENT) if not line.startswith("vpgt ")]
LINES += [inner(), task()["run"].strip()]
NUMBERS = {
    '"$SLURM_NNODES"': "2",
    '"$SLURM_NODEID"': "0",
    '"$SKYPILOT_NUM_NODES"': "2",
    '"$SKYPILOT_NODE_RANK"': "1",
    '"$SKYPILOT_NUM_GPUS_PER_NODE"': "4",
    '"$MASTER_PORT"': "29500",
    '"$MASTER_ADDR"': "10.0.0.1",
}


def rendered(line: str) -> list[str]:
    for name, value in NUMBERS.items():
        line = line.replace(name, value)
    return shlex.split(re.sub(r'"\$\(.*?\| head -n 1\)"', "10.0.0.1", line))


def launcher(words: list[str]) -> argparse.Namespace:
    """What the launcher's own parser makes of a line."""
    if words[0] == "torchrun":
        return get_args_parser().parse_args(words[1:])
    return launch_command_parser().parse_args(words[2:])


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_what_the_launcher_and_vpgt_take(line: str) -> None:
    assert line.startswith(STARTS)
    words = rendered(line)
    assert not [word for word in words if "$" in word]
    given = launcher(words)
    assert given.module and given.training_script == "vpgtrans_core.cli.main"
    name, params = parse(arguments(shlex.join(words)) or [])
    assert name == "transfer" and params["source"] and params["target"]
    several = "--standalone" not in words
    assert not several or (params["resume"] and params["out"].startswith("/shared/"))


def test_every_launcher_is_there() -> None:
    assert sum(line.startswith("torchrun --nnodes 2 ") for line in LINES) == 2
    assert sum("SLURM" in line for line in LINES) == sum("SKYPILOT" in line for line in LINES) == 1
    assert sum(line.startswith("accelerate") for line in LINES) == 1


def test_a_wrong_flag_is_noticed() -> None:
    with pytest.raises(SystemExit):
        launcher(["torchrun", "--machines", "2", "-m", "vpgtrans_core.cli.main"])


def test_the_slurm_script_is_bash() -> None:
    assert subprocess.run(["bash", "-n"], input=script(), text=True).returncode == 0
    given = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", script(), re.MULTILINE))
    assert given["ntasks-per-node"] == "1" and f"--nproc-per-node {given['gpus-per-node']}" in inner()


def test_the_skypilot_task_names_what_a_task_has() -> None:
    known = {"name", "num_nodes", "resources", "file_mounts", "setup", "run", "envs", "workdir"}
    assert set(task()) <= known and task()["num_nodes"] == 2
    assert task()["file_mounts"]["/shared"]["mode"] == "MOUNT"


def test_advised_flags_exist() -> None:
    flags = ["--log-dir", "logs", "--redirects", "3", "--tee", "3", "--local-ranks-filter", "0", "--max-restarts", "0"]
    words = ["torchrun", *flags, "-m", "vpgtrans_core.cli.main"]
    assert launcher(words).log_dir == "logs"
