import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """A folder in which one good plugin is installed."""
    from distributions import GOOD, Distribution, install

    return install(tmp_path_factory.mktemp("good"), [Distribution("good_plugin", GOOD)])


@pytest.fixture
def nowhere(tmp_path):
    """An environment without a config folder."""
    return {"XDG_CONFIG_HOME": str(tmp_path / "none")}


@pytest.fixture
def plugin_file(tmp_path):
    """Write a single-file plugin; its module is forgotten after the test."""
    names = []

    def write(name, code):
        path = tmp_path / f"{name}.py"
        path.write_text(code)
        names.append(name)
        return str(path)

    yield write
    for name in names:
        sys.modules.pop(name, None)
    sys.path[:] = [p for p in sys.path if p != str(tmp_path)]
