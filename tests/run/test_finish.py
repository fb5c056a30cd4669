"""What a finished run writes for others to see, and what it does without."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from vpgtrans_core.run import finish


def test_the_curve_names_no_place_and_hashes_are_made_up_for(monkeypatch, tmp_path: Path) -> None:
    """Folders are named by their last part in the picture; a record without hashes does not end the run."""
    seen = {}
    monkeypatch.setattr(finish, "draw_curve", lambda metrics, path, title, names: seen.update(title=title))
    monkeypatch.setattr(finish, "write_model_card", lambda *arguments, **named: None)
    monkeypatch.setattr(finish, "identity", lambda model: {"sha256": {"model.safetensors": "abc"}})
    vpg = SimpleNamespace(save_part=lambda *arguments, references: seen.update(references))
    source = SimpleNamespace(name="/home/me/blip2", folder=None, hub_id=None, revision=None, scratch_from=None)
    target = SimpleNamespace(name="/home/me/opt", reference=dict)
    folder = SimpleNamespace(
        record={}, path=tmp_path, staging=lambda: tmp_path, metrics=list, publish=lambda staging: None
    )
    settings = SimpleNamespace(save="vpg", method="vpgtrans")
    finish.write_model(
        folder, SimpleNamespace(vpg=vpg, projector=None, template=None, lora=None), source, target, settings
    )
    assert seen["title"] == "blip2 to opt, vpgtrans"
    assert seen["llm"]["sha256"] == {"model.safetensors": "abc"}
