"""Flags and yaml become settings."""

import pytest

from vpgtrans_core.cli.options import settings_from
from vpgtrans_core.errors import ConfigError


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_flags_win(tmp_path):
    config = write(tmp_path, "from: a\nto: b\nseed: 3\nstages: [1]\naugment: true\nbatch-size: 8\n")
    settings = settings_from(config, {"source": "c", "seed": None, "data": None, "augment": False, "stages": ["1,2"]})
    assert (settings.source, settings.target, settings.seed, settings.batch_size) == ("c", "b", 3, 8)
    assert (settings.augment, settings.stages) == (False, (1, 2))


@pytest.mark.parametrize("given", [["0.1", "0.9"], ["0.1,0.9"], ["0.1 0.9"]])
def test_numbers_may_be_repeated_or_listed(given):
    settings = settings_from(None, {"ratios": given, "data": ["a", "b"]})
    assert settings.ratios == (0.1, 0.9)
    assert settings.data == ("a", "b")


def test_flag_that_is_no_number_is_reported_with_the_rest():
    with pytest.raises(ConfigError) as caught:
        settings_from(None, {"stages": ["one"], "dtype": "float8", "views": 1.5})
    assert len(caught.value.problems) == 3


def test_a_key_that_yaml_would_read_twice_is_told_with_its_place(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "from: a\nfrom: b\nstages:\n  - warm-up\n  - {name: chat, lr: 1e-5, lr: 1e-4}\n"
        "x: &x {seed: 1}\ny: &y {seed: 2}\nz: {<<: *x, <<: *y, seed: 3}\n"
    )
    with pytest.raises(ConfigError) as caught:
        settings_from(path, {})
    assert caught.value.problems == [f"{path} gives from twice", f"{path} gives stages.1.lr twice"]


def test_yaml_that_is_no_mapping(tmp_path):
    with pytest.raises(ConfigError, match="must hold a mapping"):
        settings_from(write(tmp_path, "- a\n"), {})
