"""The tiny pictures and LLMs that the tests of all families share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vpg.judging import TARGETS
from vpgtrans_core.testing.tiny_models import save_pictures, save_tiny_llm


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Six captioned pictures, in COCO's form."""
    return save_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def picture(data) -> Path:
    return next((data.parent / "images").glob("*.png"))


@pytest.fixture(scope="session")
def targets(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("targets")
    return {name: save_tiny_llm(home / name, kind, changes=dict(changes)) for name, (kind, changes) in TARGETS.items()}
