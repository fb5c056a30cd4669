"""The plan of a run, from configs alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vpgtrans_core.errors import ModelError
from vpgtrans_core.planning.parts import Plan
from vpgtrans_core.planning.plan import plan
from vpgtrans_core.settings import Settings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images with 3 captions each."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for n in range(20):
        Image.new("RGB", (8, 8), (n, n, n)).save(folder / f"{n}.png")
        rows += [{"image": f"{n}.png", "image_id": n, "caption": f"a grey thing {i}"} for i in range(3)]
    (folder / "captions.json").write_text(json.dumps(rows))
    return folder / "captions.json"


def planned(data: Path | None = None, **values: object) -> Plan:
    given = {"source": "opt-2.7b", "target": "opt-6.7b", "offline": True, **values}
    return plan(Settings(**given, data=(str(data),) if data else ()))


def test_stages_count_what_they_train() -> None:
    found = planned()
    one, two = found.stages
    assert one.trained == 4096 * 769
    assert two.trained == one.trained + found.vpg.trained
    everything = found.vpg.frozen + found.vpg.trained + one.trained + found.target.shape.parameters
    assert one.trained + one.frozen == two.trained + two.frozen == everything
    assert (found.vpg.num_prompts, found.vpg.output_size, found.vpg.feature_shape) == (32, 768, (257, 1408))
    assert found.source_llm is not None and found.source_llm.from_card


def test_without_data_the_steps_are_open() -> None:
    assert planned().stages[0].steps is None
    assert [s.steps for s in planned(stage1_steps=7, stage2_steps=9).stages] == [7, 9]


def test_steps_and_captions_follow_from_the_data(data: Path) -> None:
    found = planned(data, batch_size=12, val_images=4, stage2_epochs=3.0)
    assert found.data is not None
    assert (found.data.images, found.data.captions, found.data.held_out_images) == (16, 48, 4)
    assert found.batch_images == 4
    assert [(s.steps, s.images, s.captions) for s in found.stages] == [(4, 16, 48), (12, 48, 144)]


def test_the_plan_counts_the_steps_that_the_run_takes(data: Path) -> None:
    """The run's own order of images and the plan agree, also where an epoch is no whole number of steps."""
    from vpgtrans_core.run.feed import open_training_data
    from vpgtrans_core.settings import stages_of
    from vpgtrans_core.train.recipe import stage_plan

    found = planned(data, batch_size=9, val_images=3)
    train = open_training_data(found.settings).train
    assert found.batch_images is not None
    order = train.order(0, found.batch_images)
    planned_steps = [stage_plan(found.settings, s, order.steps(1)).steps for s in stages_of(found.settings)]
    assert [s.steps for s in found.stages] == planned_steps


def test_methods_have_their_own_stages_and_start() -> None:
    assert [s.number for s in planned(method="linear").stages] == [1]
    scratch = planned(method="scratch")
    assert [s.number for s in scratch.stages] == [2]
    assert scratch.converter is None and scratch.start == "random"
    assert scratch.vpg.name == "blip2-pretrained"
    assert planned(start="converter").converter == (4096, 2560)
    assert planned().converter is None  # the start from words fits none


def test_a_vpg_alone_has_no_words() -> None:
    with pytest.raises(ModelError, match="no projector"):
        planned(source="blip2-pretrained")
    assert planned(source="blip2-pretrained", start="random").source_llm is None


def test_a_folder_without_weights_can_be_planned(tmp_path: Path) -> None:
    config = {"model_type": "qwen3", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 99}
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen3ForCausalLM"]}))
    found = planned(target=str(tmp_path))
    assert found.projector == (32, 768)
    assert found.target.shape.vocab_size == 99
    assert found.target.origin == "folder"


def test_downloads_are_bounded_where_the_hub_is_silent() -> None:
    found = {d.hub_id: d for d in planned(source="opt-6.7b", target="llama-7b").downloads}
    assert found["huggyllama/llama-7b"].size == 4 * 6_738_415_616
    assert not found["huggyllama/llama-7b"].exact


def test_text_and_json_say_the_same() -> None:
    found = planned(start="converter")
    said = str(found)
    assert "[4096, 768]" in said and "[4096, 2560]" in said and "[257, 1408]" in said
    values = json.loads(json.dumps(found.as_dict()))
    assert values["projector"] == [4096, 768]
    assert values["target"]["shape"]["parameters"] == 6_658_473_984


def test_importing_the_plan_imports_no_torch() -> None:
    code = "import sys, vpgtrans_core.planning.plan, vpgtrans_core.planning.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
