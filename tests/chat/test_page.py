"""The page, asked by Gradio's client and driven by a browser: upload, ask, answer, second question, wrong file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chat.page_server import served
from vpgtrans_core.chat.address import choose_address
from vpgtrans_core.errors import ConfigError

gradio_client = pytest.importorskip("gradio_client", reason='the page: pip install -e ".[web]"')
pytest.importorskip("gradio", reason='the page: pip install -e ".[web]"')

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
ASK, AGAIN = "question: what is it ? answer:", "question: what color is it ? answer:"
GREEDY = (0, 1, 8)
"""Temperature, beams and length."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served("opt-mini-s", "--template", "plain", "--port", "0", "--max-new-tokens", "12") as (url, _):
        yield url


@pytest.fixture
def client(url: str) -> Any:
    return gradio_client.Client(url, verbose=False)


def question(text: str, *files: Path) -> dict[str, Any]:
    return {"text": text, "files": [gradio_client.handle_file(str(file)) for file in files]}


def words(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Who said what, without images."""
    said = [
        (m["role"], part)
        for m in messages
        for part in (m["content"] if isinstance(m["content"], list) else [m["content"]])
    ]
    texts = [(role, part if isinstance(part, str) else part.get("text")) for role, part in said]
    return [(role, text) for role, text in texts if text]


def test_two_questions_about_a_picture(client: Any, picture: Path) -> None:
    job = client.submit(question(ASK, picture), *GREEDY, api_name="/ask")
    first = words(job.result()[0])
    assert [role for role, _ in first] == ["user", "assistant"] and first[0][1] == ASK
    assert len(job.outputs()) > 2  # it grew
    second = words(client.predict(question(AGAIN), *GREEDY, api_name="/ask")[0])
    assert second[:2] == first and [role for role, _ in second[2:]] == ["user", "assistant"]


def test_visitors_have_conversations_of_their_own(url: str, picture: Path) -> None:
    """Their questions wait for one another, and all are answered."""
    clients = [gradio_client.Client(url, verbose=False) for _ in range(3)]
    jobs = [one.submit(question(ASK, picture), *GREEDY, api_name="/ask") for one in clients]
    answers = [words(job.result()[0]) for job in jobs]
    assert all(len(answer) == 2 for answer in answers)
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(
    ("name", "data", "text", "wrong"),
    [
        ("bad.png", b"<svg onload=alert(1)>", ASK, "bad.png cannot be used: no image"),
        ("empty.jpg", b"", ASK, "empty.jpg cannot be used"),
        (None, b"", "  ", "the question is empty"),
        (None, b"", "what " * 300, "the language model has 128"),
    ],
)
def test_what_cannot_be_used(client: Any, tmp_path: Path, name, data: bytes, text: str, wrong: str) -> None:
    files = [tmp_path / name] if name else []
    for file in files:
        file.write_bytes(data)
    with pytest.raises(gradio_client.exceptions.AppError) as error:
        client.predict(question(text, *files), *GREEDY, api_name="/ask")
    assert (
        wrong in str(error.value)
        and str(tmp_path) not in str(error.value)
        and "/" not in str(error.value).split(wrong)[0]
    )
    assert len(words(client.predict(question(ASK), *GREEDY, api_name="/ask")[0])) == 2  # the next question is answered


def test_forty_images(client: Any, picture: Path) -> None:
    with pytest.raises(gradio_client.exceptions.AppError, match="40 images are too many"):
        client.predict(question(ASK, *[picture] * 40), *GREEDY, api_name="/ask")


@pytest.mark.parametrize("path", ["/etc/hostname", str(Path(__file__)), "http://127.0.0.1:1/picture.png"])
def test_files_of_the_server_and_of_others_are_not_read(client: Any, path: str) -> None:
    with pytest.raises(gradio_client.exceptions.AppError):
        client.predict(
            {"text": ASK, "files": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}, *GREEDY, api_name="/ask"
        )


def test_settings_out_of_bounds(client: Any) -> None:
    with pytest.raises(gradio_client.exceptions.AppError):
        client.predict(question(ASK), 0, 5000, 8, api_name="/ask")


def test_new_conversation(client: Any, picture: Path) -> None:
    client.predict(question(ASK, picture), *GREEDY, api_name="/ask")
    client.predict(api_name="/reset")
    assert len(words(client.predict(question(AGAIN), *GREEDY, api_name="/ask")[0])) == 2


def test_a_password_is_asked_for() -> None:
    from vpgtrans_core.chat.serving import serve

    class Seen(Exception):
        pass

    def look(url: str) -> None:
        with pytest.raises(Exception, match=r"401|[Aa]uth|[Ll]ogin"):
            gradio_client.Client(url, verbose=False)
        gradio_client.Client(url, auth=("vpgt", "secret"), verbose=False)
        raise Seen

    from vpgtrans_core.chat.options import CHAT
    from vpgtrans_core.chat.speaker import Speaker
    from vpgtrans_core.registry import default_registry
    from vpgtrans_core.settings import Settings

    speaker = Speaker.load("opt-mini-s", Settings(device="cpu", template="plain"), default_registry())
    with pytest.raises(Seen):
        serve(speaker, "a model", choose_address("127.0.0.1", 0, "secret"), options=CHAT, ready=look)


def test_examples_must_be_pictures(tmp_path: Path) -> None:
    from vpgtrans_core.chat.serving import example_pictures

    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(ConfigError, match="has no JPEG, PNG, WEBP images"):
        example_pictures(tmp_path)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
def test_in_a_browser(url: str, picture: Path) -> None:
    """At the width of a desktop and of a phone; the page asks no other server for anything, and fits the phone."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        try:
            for width in (1100, 390):
                page = browser.new_page(viewport={"width": width, "height": 800})
                _converse(page, url, picture)
                assert page.evaluate("document.documentElement.scrollWidth") <= width
        finally:
            browser.close()


def _converse(page: Any, url: str, picture: Path) -> None:
    from playwright.sync_api import expect

    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    box = page.locator("#box textarea")
    answers = page.locator("#talk .bot.message, #talk .message.bot")
    box.wait_for()
    page.set_input_files("#box input[type=file]", str(picture))
    page.locator("#box img").first.wait_for()
    box.fill(ASK)
    box.press("Enter")
    _answered(page, answers, 1)
    box.fill(AGAIN)
    box.press("Enter")
    _answered(page, answers, 2)
    assert page.locator("#talk img").count() == 1
    page.set_input_files("#box input[type=file]", {"name": "bad.png", "mimeType": "image/png", "buffer": b"no image"})
    box.fill(ASK)
    box.press("Enter")
    page.get_by_text("bad.png cannot be used: no image").wait_for()
    expect(answers).to_have_count(2)
    assert {address for address in asked if not address.startswith((url, "data:", "blob:"))} == set()


def _answered(page: Any, answers: Any, number: int) -> None:
    """Wait until the answer of this number has begun (before, its place is empty, and the box looks free) and ended."""
    from playwright.sync_api import expect

    expect(answers).to_have_count(number)
    expect(answers.last).to_have_text(re.compile(r"\w"), timeout=60_000)
    page.wait_for_timeout(1000)  # the box is closed and opened again a little after the words have come
    page.locator("#box .submit-button").wait_for()
