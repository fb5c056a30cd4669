"""What a plan says of a stage of conversations: their real lengths, answers instead of captions, and the cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vpgtrans_core.cli.main import main
from vpgtrans_core.data.conversation import Conversation, ImageMark, Turn
from vpgtrans_core.miniature.data import items
from vpgtrans_core.miniature.instructions import dialogues, save
from vpgtrans_core.models.resolve import resolve_source
from vpgtrans_core.planning.cost.assumptions import assumptions_for
from vpgtrans_core.planning.cost.chips import chip, chips
from vpgtrans_core.planning.cost.estimate import Estimator
from vpgtrans_core.planning.parts import Plan
from vpgtrans_core.planning.plan import plan
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings, build, tuning_values
from vpgtrans_core.vlm.reading import example_of

PICTURES = 40
REGISTRY = default_registry()


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(items("train", PICTURES), tmp_path_factory.mktemp("talk"))


def tuned(talk: Path | None, **values: object) -> Plan:
    data = {"data": (str(talk),)} if talk else {}
    given = {"source": "opt-mini-s", "val_images": 0, "template": "vicuna", "device": "cpu", **data, **values}
    return plan(build(tuning_values(given)), registry=REGISTRY)


def test_conversations_are_read_as_training_reads_them(talk: Path) -> None:
    (stage,) = tuned(talk, max_tokens=500).stages
    told = stage.conversations
    assert told is not None
    lengths, answers = [], 0
    for exchanges in dialogues(items("train", PICTURES)):
        turns = []
        for number, one in enumerate(exchanges):
            turns.append(Turn("user", ((ImageMark(0), one.question) if number == 0 else (one.question,))))
            turns.append(Turn("assistant", (one.answer,)))
        settings = Settings(device="cpu", template="vicuna")
        lengths.append(example_of("opt-mini-s", settings, REGISTRY, Conversation(tuple(turns)))[1].tokens)
        answers += len(exchanges)
    assert told.source == "data" and told.texts == 1 and told.cut == 0
    assert told.tokens == pytest.approx(sum(lengths) / PICTURES, abs=0.06)
    assert told.answers == pytest.approx(answers / PICTURES) and stage.captions == pytest.approx(
        stage.images * told.answers, abs=1
    )


def test_what_the_limit_cuts_is_told(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = tuned(talk, max_tokens=60).stages[0].conversations
    assert told is not None and told.cut and told.cut > 0.2 and told.whole and told.whole > 60 and told.tokens <= 60
    arguments = ["tune", "opt-mini-s", "--data", str(talk), "--template", "vicuna", "--max-tokens", "60", "--dry-run"]
    with pytest.raises(SystemExit):
        main(arguments)
    text = " ".join(capsys.readouterr().out.split())
    assert f"the limit of 60 cuts off {told.cut:.1%} of the labels" in text and "answers a step" in text


def test_the_template_and_the_instruction_count(talk: Path) -> None:
    plain, vicuna = (tuned(talk, template=name, max_tokens=500).stages[0].conversations for name in ("plain", "vicuna"))
    assert plain is not None and vicuna is not None and vicuna.tokens > plain.tokens + 20


def test_without_tokenizer_words_are_counted_and_without_data_the_limit(talk: Path) -> None:
    values = {"source": "opt-2.7b", "target": "vicuna-7b", "then": "minigpt4-align", "offline": True}
    bare = plan(build(values), registry=REGISTRY).stages[2].conversations
    assert bare is not None and (bare.source, bare.tokens, bare.answers) == ("limit", 160, 1)
    values |= {"data": (str(talk),), "then_data": (str(talk),)}
    guessed = plan(build(values), registry=REGISTRY).stages[2].conversations
    assert guessed is not None and guessed.source == "words" and 20 < guessed.tokens < 160 and guessed.answers > 3


def test_a_stage_of_conversations_costs_what_its_lengths_cost() -> None:
    """Without data: 96,000 answers of 160 tokens, several times as much work each as a caption's 13 tokens."""
    made = plan(build({"source": "opt-2.7b", "target": "vicuna-7b", "then": "minigpt4-align", "offline": True}))
    device = chip("a100", chips(REGISTRY.switches.folder))
    cost = Estimator(made, REGISTRY, device, assumptions_for(made, device)).cost()
    second, third = cost.stages[1:]
    assert third.captions == 800 * 120
    language = [stage.flops.llm_forward + stage.flops.llm_backward for stage in (second, third)]
    positions = (32 + 13, 32 + 160)
    assert language[1] / language[0] == pytest.approx(positions[1] / positions[0], rel=0.15)
    fits = {fit.stage: fit for fit in cost.fits}
    assert fits[3].most_images < fits[2].most_images


def test_the_hours_of_a_tuning(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            ["plan", "--method", "tune", "--from", "opt-mini-s", "--template", "vicuna", "--data", str(talk), "--json"]
        )
    made = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and made["plan"]["target"]["shape"] and made["cost"]["gpu_hours"] > 0
    with pytest.raises(SystemExit):
        main(["plan", "--method", "tune", "--from", "opt-mini-s", "--template", "vicuna", "--data", str(talk)])
    text = capsys.readouterr().out
    assert "ANSWERS" in text and "stage 3 (instruction-tuning)" in text and "from scratch" not in text
    assert "answers a step" in text.partition("assumptions")[2] and "THE PAPER" not in text


def test_the_llm_of_a_tuned_model_is_its_own() -> None:
    source = resolve_source("opt-mini-s", REGISTRY, Settings(), weights=False)
    assert source.llm is not None and tuned(None).target.shape.embedding_size == source.llm.embedding_size
