"""The miniature source as a model that chats: it answers, if not wisely."""

from __future__ import annotations

import pytest
from PIL import Image

from vpgtrans_core.chat.chat import Chat
from vpgtrans_core.chat.speaker import Speaker
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings


@pytest.fixture(scope="session")
def speaker() -> Speaker:
    return Speaker.load("opt-mini-s", Settings(device="cpu", template="plain"), default_registry())


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def chat(speaker: Speaker, notes: list[str]) -> Chat:
    return Chat(speaker, notify=notes.append)


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    return tmp_path / "red.png"
