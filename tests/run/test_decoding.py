"""How a finished model decodes: chosen by what it says, written where transformers and `vpgt caption` read it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from tests.run.test_transfer import settings
from vpgtrans_core.cli.main import main
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.vlm.captioning import caption
from vpgtrans_core.vlm.model import VLModel

LOOP = "a fish in the shape of a fish in the shape of a fish in the shape of"


def run(world: Path, out: Path, monkeypatch: pytest.MonkeyPatch, beams: str, greedy: str) -> dict[str, Any]:
    """A short run whose model says `beams` under beam search, and `greedy` greedily."""

    def says(self: VLModel, visual: Any, kind: Any, prompt: Any, options: Any, images: Any) -> list[str]:
        return [greedy if options.num_beams == 1 else beams] * len(images or visual)

    monkeypatch.setattr(VLModel, "generate", says)
    record = transfer(**settings(world, "llama", out, stage1_steps=1, stage2_steps=0)).record
    monkeypatch.undo()
    return record["decoding"]


@pytest.mark.parametrize(
    ("beams", "greedy", "chosen", "num_beams"),
    [(LOOP, "a fish", "greedy", 1), (LOOP, LOOP, "beams", 5), ("a fish", "a fish", "beams", 5)],
)
def test_beams_unless_they_loop_more(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beams: str, greedy: str, chosen: str, num_beams: int
) -> None:
    found = run(world, tmp_path / "run", monkeypatch, beams, greedy)
    images = found["images"]
    assert found["chosen"] == chosen
    assert found["loops"] == {"beams": images * (beams == LOOP), "greedy": images * (greedy == LOOP)}
    written = GenerationConfig.from_pretrained(tmp_path / "run")
    assert (written.num_beams, written.max_new_tokens) == (num_beams, 30)
    assert written.eos_token_id is not None


@pytest.mark.parametrize("beams", [LOOP, "a fish"])
def test_the_cards_snippet_says_what_vpgt_caption_says(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], beams: str
) -> None:
    run(world, tmp_path / "run", monkeypatch, beams, "a fish")
    picture = world / "data/images/3.png"
    (tmp_path / "picture.png").write_bytes(picture.read_bytes())
    code = (tmp_path / "run/README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(code, {})
    said = capsys.readouterr().out
    mine = caption("run", ["picture.png"])[0].text
    assert said.strip() == mine
    with pytest.raises(SystemExit, match="0"):
        main(["caption", "run", "picture.png", "--json"])
    assert json.loads(capsys.readouterr().out)[0]["text"] == mine


def test_flags_change_what_the_folder_says(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(world, tmp_path / "run", monkeypatch, LOOP, "a fish")
    asked: list[Any] = []
    monkeypatch.setattr(VLModel, "generate", lambda self, v, k, p, options: asked.append(options) or ["x"])
    picture = str(world / "data/images/3.png")
    caption(str(tmp_path / "run"), [picture])
    caption(str(tmp_path / "run"), [picture], options={"max_new_tokens": 7})
    caption(str(tmp_path / "run"), [picture], prompt="Question: what is it? Answer:")
    assert [(o.num_beams, o.min_new_tokens, o.max_new_tokens) for o in asked] == [(1, 1, 30), (1, 1, 7), (5, 1, 10)]
