import json

import pytest
from PIL import Image


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A current folder with what the documents' commands name: pictures and captions; the hub is out of reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    names = [f"{n}.jpg" for n in range(12)]
    for name in (*names, "other.jpg"):
        Image.new("RGB", (20, 16), "red").save(name)
    Image.new("RGB", (48, 48), "green").save("picture.png")
    images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    captions = [{"image_id": n, "caption": "a red thing"} for n in range(len(names))]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return tmp_path
