"""Whether all processes of a run start with the same data, models and settings.

They are compared by the identities that a resume compares too. Every process gets the same answer, so that none waits
for one that has refused.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.processes.heartbeat import WatchedAccelerator
from vpgtrans_core.processes.shared import machine_name, told_once
from vpgtrans_core.run.identity import differences


def check_start(accelerator: WatchedAccelerator, begun: dict[str, Any]) -> None:
    """Refuse to run if some process starts with other data, models or settings than the main one; every process must
    ask.

    Args:
        begun: as of `begun_with`.

    Raises:
        ConfigError: in every process; names those processes and what differs, as far as it is known.
    """
    if accelerator.num_processes < 2:
        return
    digest = hashlib.sha256(json.dumps(begun, sort_keys=True, default=str).encode()).hexdigest()
    answers = accelerator.gather_object([(digest, machine_name())])
    others = [(rank, where) for rank, (theirs, where) in enumerate(answers) if theirs != answers[0][0]]
    if not others:
        return
    starts = accelerator.gather_object([begun])
    problems = []
    for rank, where in others:
        changes = differences(starts[0], starts[rank]) or ["something that they start with"]
        problems += [f"process {rank} on {where} differs from process 0 in {change}" for change in changes]
    raise told_once(
        ConfigError(
            list(dict.fromkeys(problems)),
            "start every process with the same command, and give each machine the same data and models; they may lie "
            "at the same path on storage that all machines share",
        )
    )
