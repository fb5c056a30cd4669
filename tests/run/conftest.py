from pathlib import Path

import pytest

from tests.run import tiny_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``source``, the LLMs ``opt``, ``opt-wide``, ``llama``, ``t5`` and ``data/captions.json``."""
    root = tmp_path_factory.mktemp("world")
    for name in tiny_world.LLMS:
        tiny_world.save_llm(root / name, name, seed=len(name))
    tiny_world.save_source(root / "source", root / "opt")
    tiny_world.save_images(root / "data")
    return root
