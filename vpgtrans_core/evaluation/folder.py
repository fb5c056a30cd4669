"""The folder of an evaluation: answers as they come, so that a stopped evaluation goes on, and the result at the end.

DIR/eval.json           what was asked of which model, and the scores; whole when ``finished``
DIR/answers.N.jsonl     one line an answer, of process N; only while answering
DIR/predictions.jsonl   every sample with its answer and its own scores
DIR/submission.json     the answers as the task's server takes them
DIR/report.html         pictures with what was said
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from vpgtrans_core.errors import ConfigError, DataError, ModelError
from vpgtrans_core.evaluation.files import is_id
from vpgtrans_core.evaluation.task import Id
from vpgtrans_core.files import is_leftover, read_json, write_json, write_synced, writing
from vpgtrans_core.run.lock import LOCK, FolderLock

RECORD = "eval.json"
PREDICTIONS = "predictions.jsonl"
SUBMISSION = "submission.json"
REPORT = "report.html"
_PARTS = "answers.*.jsonl"


class EvalFolder:
    """One evaluation's folder; used as a context, it is let go at the end. `identity` says what was asked of which
    model: answers to anything else are not used."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity))
        self._lock: FolderLock | None = None

    def __enter__(self) -> EvalFolder:
        return self

    def __exit__(self, *_: object) -> None:
        """Let others use the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def check(self, *, overwrite: bool) -> None:
        """Refuse a folder that holds something else; writes nothing.

        Raises:
            ConfigError: it holds other files, or another evaluation and `overwrite` is off.
        """
        if not self.path.exists() or (self.path.is_dir() and not any(map(_counts, self.path.iterdir()))):
            return
        if not (self.path / RECORD).is_file():
            raise ConfigError([f"{self.path} holds something else than an evaluation"], "choose another --out")
        if overwrite:
            return
        hint = "choose another --out, or replace its evaluation with --overwrite"
        before = self._settings()
        if before is None:
            raise ConfigError([f"{self.path / RECORD} is damaged: it does not say what was asked"], hint)
        changed = [key for key in {**before, **self.identity} if before.get(key) != self.identity.get(key)]
        if changed:
            told = [f"{k} was {_short(before.get(k))} and is now {_short(self.identity.get(k))}" for k in changed]
            raise ConfigError([f"{self.path} holds another evaluation: {line}" for line in told], hint)

    def _settings(self) -> dict[str, Any] | None:
        """What the folder's record says was asked; None where it cannot be read."""
        try:
            settings = read_json(self.path / RECORD).get("settings")
        except ModelError:
            return None
        return settings if isinstance(settings, dict) else None

    def start(self, *, overwrite: bool) -> None:
        """Make the folder, keep others out of it, and note what is asked; with `overwrite` forget what an evaluation
        has left in it. The main process alone calls it.

        Raises:
            ConfigError: another evaluation is at work in the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock.take(self.path)
        if overwrite:
            for old in [*self.path.glob(_PARTS), *(self.path / name for name in (PREDICTIONS, SUBMISSION, REPORT))]:
                old.unlink(missing_ok=True)
        if overwrite or not (self.path / RECORD).is_file():
            begun = {"finished": False, "settings": self.identity}
            with writing("the record of the evaluation", self.path, len(str(begun))):
                write_json(self.path / RECORD, begun)

    def answers(self, known: Mapping[Id, int]) -> dict[int, str]:
        """The answers that are there, by the numbers of their samples. A line cut off by a crash does not count.

        Raises:
            DataError: an answer is to a sample that the task does not have.
        """
        answers: dict[int, str] = {}
        for file in sorted([*self.path.glob(_PARTS), *self.path.glob(PREDICTIONS)]):
            for row in _whole_rows(file):
                if row["id"] not in known:
                    raise DataError(
                        f"{file} has an answer to {row['id']!r}, which the task does not ask",
                        "start anew with --overwrite",
                    )
                answers[known[row["id"]]] = row["answer"]
        return answers

    def append_to(self, process: int) -> IO[str]:
        """The open file to which a process appends its answers, after a last line that was cut off is ended."""
        path = self.path / f"answers.{process}.jsonl"
        ended = not path.is_file() or path.read_bytes()[-1:] in (b"", b"\n")
        file = path.open("a", encoding="utf-8")
        file.write("" if ended else "\n")
        return file

    def finish(self, rows: Iterable[Mapping[str, Any]], submission: Any, page: str, result: Mapping[str, Any]) -> None:
        """Write the result, ``eval.json`` last, then remove the answers' parts."""
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        files = {PREDICTIONS: lines, SUBMISSION: json.dumps(submission, ensure_ascii=False), REPORT: page}
        with writing("the result", self.path, sum(map(len, files.values()))):
            for name, content in files.items():
                write_synced(self.path / name, content.encode())
            write_json(self.path / RECORD, {"finished": True, "settings": self.identity, **result})
        for part in self.path.glob(_PARTS):
            part.unlink()


def write_answers(file: IO[str], answers: Sequence[tuple[Id, str]]) -> None:
    """Append answers, and let the system have them at once."""
    lines = "".join(json.dumps({"id": i, "answer": text}) + "\n" for i, text in answers)
    with writing("answers", Path(file.name).parent, len(lines)):
        file.write(lines)
        file.flush()


def _whole_rows(file: Path) -> Iterable[dict[str, Any]]:
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and is_id(row.get("id")) and isinstance(row.get("answer"), str):
            yield row


def _counts(path: Path) -> bool:
    return path.name != LOCK and not is_leftover(path)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}..."
