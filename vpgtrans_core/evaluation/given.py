"""Answers that somebody else's program has given: read, and matched with the samples of a task. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpgtrans_core.data.readers.json_rows import read_rows
from vpgtrans_core.errors import DataError
from vpgtrans_core.evaluation.files import is_id, place_of, refuse
from vpgtrans_core.evaluation.task import Id, Task


def read_given(path: Path, task: Task, known: Mapping[Id, int]) -> dict[int, str]:
    """Read answers in the form of the task's official result file, or lines ``{"id", "answer"}`` of a
    ``predictions.jsonl``.

    Returns:
        the answers by the numbers of their samples.

    Raises:
        DataError: a row lacks a field, answers are to other samples or twice to the same, or some have none.
    """
    content, lines = read_rows(path)
    rows = content.get("results") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError(f"{path} is not a list of answers", f"it holds [{{{task.id_key!r}, {task.answer_key!r}}}]")
    problems, answers = [], {}
    for number, row in enumerate(rows, 1):
        key, text = _fields(row, task)
        place = f"{path}: {place_of(number, lines)}"
        if not is_id(key) or not isinstance(text, str):
            problems.append(f"{place} has no {task.id_key} or no {task.answer_key}")
        elif key not in known:
            problems.append(f"{place} answers {key!r}, which the task does not ask")
        elif known[key] in answers:
            problems.append(f"{place} answers {key!r} a second time")
        else:
            answers[known[key]] = text
    problems += [f"{path} has no answer to {key!r}" for key, number in known.items() if number not in answers]
    refuse(problems, "give answers to the samples of this task and split, one each, with their ids as they stand there")
    return answers


def _fields(row: Any, task: Task) -> tuple[Any, Any]:
    if not isinstance(row, dict):
        return None, None
    return row.get(task.id_key, row.get("id")), row.get(task.answer_key, row.get("answer"))
