import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """A folder in which one good plugin is installed."""
    from distributions import GOOD, Distribution, install

    return install(tmp_path_factory.mktemp("good"), [Distribution("good_plugin", GOOD)])
