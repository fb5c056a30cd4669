"""A hub on this machine, and a finished run to send to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as constants
import pytest

import vpgtrans_core
from tests.sharing.hub import TOKEN, Hub


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of the miniature, cut short."""
    out = tmp_path_factory.mktemp("runs") / "sees"
    vpgtrans_core.transfer(
        source="opt-mini-s", target="llama-mini", out=str(out), limit=24, val_images=4, device="cpu", workers=0,
        batch_size=60, stage1_steps=1, stage2_steps=1,
    )  # fmt: skip
    return out


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, at which the hub's client looks, logged in; large files go by LFS."""
    stand_in = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", stand_in.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield stand_in
    stand_in.close()
