from pathlib import Path

import pytest

from tests.run import tiny_world


@pytest.fixture(scope="session")
def cache_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``source``, the LLMs ``opt``, ``llama`` and ``t5``, and ``data/captions.json``."""
    root = tmp_path_factory.mktemp("cache_world")
    for name in ("opt", "llama", "t5"):
        tiny_world.save_llm(root / name, name, seed=len(name))
    tiny_world.save_source(root / "source", root / "opt")
    tiny_world.save_images(root / "data")
    return root
