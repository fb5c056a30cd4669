"""Nothing that a test does touches the user's cache or config."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = dict(os.environ)
    root: Path = tmp_path_factory.mktemp("user")
    os.environ |= {"VPGT_CACHE": str(root / "cache"), "XDG_CONFIG_HOME": str(root / "config")}
    yield
    os.environ.clear()
    os.environ.update(before)
