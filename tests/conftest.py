import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Runs in tests keep what they compute in a folder of the tests, not in the user's."""
    os.environ["VPGT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
