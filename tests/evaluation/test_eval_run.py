"""`vpgt eval` from start to end: answers, scores, files, resuming, given answers, plugins, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from tests.docs.documents import blocks
from tests.evaluation import official
from tests.run import tiny_world
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import EvalMetric, EvalTask, load
from vpgtrans_core.cli.main import main
from vpgtrans_core.errors import ConfigError, DataError, ModelError, PluginError, VpgtError
from vpgtrans_core.evaluation import answering
from vpgtrans_core.evaluation.metrics.metric import Metric, mean
from vpgtrans_core.evaluation.run import EvalSettings, evaluate
from vpgtrans_core.evaluation.scoring import EvalResult
from vpgtrans_core.evaluation.task import EvalSample
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.miniature.tasks import MiniQuestions
from vpgtrans_core.models.resolve import resolve_target
from vpgtrans_core.registry import default_registry, load_registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.vlm.captioning import caption, load_model, say

MODEL = "opt-mini-s"
CPU = Settings(device="cpu")


def run(out: Path, task: str = "mini-questions", progress=None, registry=None, **changes) -> EvalResult:
    settings = {"model": MODEL, "limit": 20, "batch_size": 4, "machine": CPU, "out": str(out), **changes}
    result = evaluate(EvalSettings(task=task, **settings), registry, progress)
    assert result is not None
    return result


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


class Counter:
    """Counts answers; raises after some of them, as a user would."""

    def __init__(self, stop: int | None = None) -> None:
        self.answers, self.stop = 0, stop

    def stage(self, name: str, total: int) -> None:
        self.total = total

    def step(self, advance: int = 1) -> None:
        self.answers += advance
        if self.stop and self.answers >= self.stop:
            raise KeyboardInterrupt

    def message(self, text: str) -> None: ...


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvalResult]:
    """20 questions about the miniature, answered without a stop."""
    folder = tmp_path_factory.mktemp("whole") / "eval"
    return folder, run(folder)


def test_questions_are_scored_and_written(whole: tuple[Path, EvalResult]) -> None:
    folder, result = whole
    assert {path.name for path in folder.iterdir()} == {
        "eval.json", "predictions.jsonl", "report.html", "submission.json"
    }  # fmt: skip
    written = rows(folder)
    right = [row["answer"] in row["references"] for row in written]
    assert result.scored[0].whole.value == sum(right) / 20 and 0.4 < sum(right) / 20 < 1
    assert [row["scores"]["exact"] for row in written] == list(map(float, right))
    record = json.loads((folder / "eval.json").read_text())
    assert record["finished"] and record["scores"]["exact"]["all"] == sum(right) / 20
    assert sum(result.groups.values()) == 20 and set(result.groups) < set(record["scores"]["exact"])
    submission = json.loads((folder / "submission.json").read_text())
    assert submission == [{"question_id": row["id"], "answer": row["answer"]} for row in written]
    page = (folder / "report.html").read_text()
    assert page.count("<img alt=") == 20 and page.count("data:image/jpeg;base64,") == 20 and "http" not in page
    assert page.index("Lowest exact match") < page.index("Highest exact match")


def test_it_says_what_caption_says(tmp_path: Path) -> None:
    """On files in the official form, of a model of the miniature and of a folder that transformers wrote."""
    folder = tiny_world.save_source(tmp_path / "blip2", tiny_world.save_llm(tmp_path / "opt", "opt"))
    data = official.coco(tmp_path / "coco")
    questions, annotations = official.vqa(tmp_path / "vqa")
    for number, model in enumerate((MODEL, str(folder))):
        vl = load_model(model, CPU, default_registry())
        run(tmp_path / f"captions{number}", "coco", model=model, data=(str(data),))
        written = rows(tmp_path / f"captions{number}")
        images = [data.parent / "images" / row["image"] for row in written]
        assert [row["answer"] for row in written] == [said.text for said in say(vl, images)]
        files = (str(questions), str(annotations))
        run(tmp_path / f"answers{number}", "vqav2", model=model, data=files, limit=5, prompt="Q: {}")
        for row in rows(tmp_path / f"answers{number}"):
            image, prompt = questions.parent / "val2014" / row["image"], f"Q: {row['question']}"
            assert row["answer"] == next(say(vl, [image], prompt=prompt)).text


def test_options_and_prompt(tmp_path: Path) -> None:
    data = official.coco(tmp_path / "coco")
    options = {"num_beams": 1, "min_new_tokens": 1, "max_new_tokens": 3}
    run(tmp_path / "eval", "coco", data=(str(data),), limit=2, prompt="we see", options=options)
    row = rows(tmp_path / "eval")[1]
    image = data.parent / "images" / row["image"]
    said = caption(MODEL, [image], prompt="we see", options=GenerateOptions(**options), settings=CPU)
    assert row["answer"] == said[0].text


def test_it_goes_on_after_a_stop(whole: tuple[Path, EvalResult], tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    with pytest.raises(KeyboardInterrupt):
        run(folder, progress=Counter(stop=8))
    assert not json.loads((folder / "eval.json").read_text())["finished"]
    (part,) = folder.glob("answers.*.jsonl")
    kept = part.read_text()
    part.write_text(kept[: kept.rindex("\n", 0, -1) + 9])  # as a crash in the middle of a line leaves it
    counter = Counter()
    run(folder, progress=counter)
    assert 0 < counter.answers < 20
    for name in ("predictions.jsonl", "submission.json", "report.html"):
        assert (folder / name).read_bytes() == (whole[0] / name).read_bytes()
    counter = Counter()
    run(folder, progress=counter)  # all is answered: only scored again
    assert counter.answers == 0


def test_parts_of_several_processes_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "IMAGES", 2)
    samples = MiniQuestions().read(load_files(), scored=True)[:40]
    prompts = [MiniQuestions().prompt(sample, "Question: {} Answer:") for sample in samples]
    model = load_model(MODEL, CPU, default_registry())

    def answers(part: tuple[int, int]) -> dict[int, str]:
        short = GenerateOptions(num_beams=2, min_new_tokens=1, max_new_tokens=4)
        batches = answering.answer(model, samples, prompts, lambda prompt: short, batch=4, part=part)
        return {number: text for batch in batches for number, text in batch}

    first, second = answers((0, 2)), answers((1, 2))
    assert first and second and not set(first) & set(second)
    assert first | second == answers((0, 1)) and len(first | second) == 40


def load_files():
    from vpgtrans_core.evaluation.files import DataFiles

    return DataFiles("mini-questions", [])


def test_batches_hold_prompts_of_one_length_and_each_image_once() -> None:
    samples = MiniQuestions().read(load_files(), scored=True)[:60]
    lengths = [len(sample.question) for sample in samples]
    (chunk,) = answering.plan_chunks(samples, lengths, 4)
    assert sorted(number for batch in chunk.batches for number in batch) == list(range(60))
    assert all(len({lengths[number] for number in batch}) == 1 and len(batch) <= 4 for batch in chunk.batches)
    assert len({image.name for image in chunk.images}) == len(chunk.images) < 60


@pytest.mark.parametrize("name", ["opt-mini-s", "t5-mini"])
def test_several_prompts_at_once(name: str) -> None:
    """As one by one, for decoders and for encoder-decoders."""
    llm = resolve_target(name, default_registry(), Settings())
    model = load(llm.family.adapter).load(llm.folder, family=llm.family)
    soft = torch.randn(3, 4, model.embedding_size, generator=torch.Generator().manual_seed(0))
    prompts = ["what color is the ball ?", "what color is the cup ?", "what color is the house ?"]
    prompts = [p for p in prompts if len(model.text.prompt_ids(p)) == len(model.text.prompt_ids(prompts[0]))]
    assert len(prompts) > 1
    together = model.generate(soft[: len(prompts)], prompts)
    assert together == [model.generate(soft[i : i + 1], prompt)[0] for i, prompt in enumerate(prompts)]
    assert len(set(together)) > 1


def test_given_answers_are_scored_without_a_model(whole: tuple[Path, EvalResult], tmp_path: Path) -> None:
    folder, result = whole
    for number, name in enumerate(("predictions.jsonl", "submission.json")):
        given = run(tmp_path / str(number), model=None, predictions=str(folder / name))
        assert given.scored == result.scored and rows(tmp_path / str(number)) == rows(folder)


def test_given_answers_to_something_else(whole: tuple[Path, EvalResult], tmp_path: Path) -> None:
    given = json.loads((whole[0] / "submission.json").read_text())
    given[0]["question_id"] = "other"
    given[2] = given[1]
    del given[3]["answer"]
    (tmp_path / "answers.json").write_text(json.dumps(given))
    with pytest.raises(DataError, match="6 problems") as error:
        run(tmp_path / "eval", model=None, predictions=str(tmp_path / "answers.json"))
    for part in ("'other', which the task does not ask", "a second time", "row 4 has no", "has no answer to"):
        assert part in error.value.message
    assert not (tmp_path / "eval").exists()


def test_answers_without_scores(tmp_path: Path) -> None:
    questions, _ = official.vqa(tmp_path)
    result = run(tmp_path / "eval", "vqav2", data=(str(questions),), scored=False, limit=4)
    assert result.scored == () and len(json.loads((tmp_path / "eval" / "submission.json").read_text())) == 4
    assert (tmp_path / "eval" / "report.html").read_text().count("<figure") == 4


def test_nocaps_scores_each_domain(tmp_path: Path) -> None:
    result = run(tmp_path / "eval", "nocaps", data=(str(official.nocaps(tmp_path / "nocaps")),))
    assert result.groups == {"in-domain": 2, "near-domain": 2, "out-domain": 2}
    assert [row[0] for row in result.rows()] == ["", "all", "in-domain", "near-domain", "out-domain"]
    assert len(set(result.scored[0].groups.values())) > 1


def test_another_evaluation_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    run(folder, limit=4)
    with pytest.raises(ConfigError, match="limit was 4 and is now 5"):
        run(folder, limit=5)
    assert len(rows(folder)) == 4
    assert run(folder, limit=5, overwrite=True).samples == 5 and len(rows(folder)) == 5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(ConfigError, match="something else than an evaluation"):
        run(tmp_path / "mine")


def test_a_missing_and_a_damaged_image(tmp_path: Path) -> None:
    data = official.coco(tmp_path / "coco")
    image = data.parent / "images" / "COCO_val2014_000000000003.jpg"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(DataError, match=r"000000000003\.jpg cannot be used: truncated image"):
        run(tmp_path / "damaged", "coco", data=(str(data),))
    image.unlink()
    with pytest.raises(DataError, match=r"000000000003\.jpg is missing"):
        run(tmp_path / "eval", "coco", data=(str(data),))
    assert not (tmp_path / "eval").exists()


class FirstWord(Metric):
    """Whether the answer begins as a reference does."""

    title = "first word"

    def score(self, answers, references):
        pairs = zip(answers, references, strict=True)
        return mean([float(a.split()[:1] in [r.split()[:1] for r in several]) for a, several in pairs])


class Colours(MiniQuestions):
    """The miniature's questions about colours."""

    def read(self, files, *, scored) -> list[EvalSample]:
        return [sample for sample in super().read(files, scored=scored) if sample.group == "colour"]


def test_a_plugin_adds_a_task_and_a_metric(tmp_path: Path) -> None:
    @hookimpl
    def vpgt_eval_tasks():
        absent = EvalTask("absent", "nowhere:Task", ("first-word",))
        return [EvalTask("colours", f"{__name__}:Colours", ("first-word",)), absent]

    @hookimpl
    def vpgt_eval_metrics():
        return [EvalMetric("first-word", f"{__name__}:FirstWord")]

    plugin = types.ModuleType("colours_plugin")
    plugin.__dict__.update(vpgt_eval_tasks=vpgt_eval_tasks, vpgt_eval_metrics=vpgt_eval_metrics)
    registry = load_registry(())
    provided = registry.add(plugin, "colours_plugin").provides
    assert provided == ["eval task colours", "eval task absent", "eval metric first-word"]
    result = run(tmp_path / "eval", "colours", registry=registry, limit=4)
    assert result.scored[0].title == "first word" and result.groups == {}  # one group is no part of the whole
    assert all("color" in row["question"] for row in rows(tmp_path / "eval"))
    with pytest.raises(PluginError, match=r"'absent' cannot be used: nowhere:Task raised ModuleNotFoundError"):
        run(tmp_path / "absent", "absent", registry=registry)
    with pytest.raises(ModelError, match="unknown evaluation task 'colors'") as error:
        run(tmp_path / "eval", "colors", registry=registry)
    assert "did you mean 'colours'" in error.value.hint and "vpgt eval --list" in error.value.hint


def test_one_process_of_several_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What needs no model is the main process's alone."""
    run(tmp_path / "eval", limit=2)
    (tmp_path / "eval" / "report.html").unlink()
    monkeypatch.setenv("RANK", "1")
    settings = EvalSettings("mini-questions", MODEL, limit=2, batch_size=4, machine=CPU, out=str(tmp_path / "eval"))
    assert evaluate(settings) is None and not (tmp_path / "eval" / "report.html").exists()
    given = EvalSettings("mini-questions", predictions=str(tmp_path / "eval" / "submission.json"), limit=2,
                         out=str(tmp_path / "given"))  # fmt: skip
    assert evaluate(given) is None and not (tmp_path / "given").exists()


def test_a_short_maximum_lowers_the_minimum(tmp_path: Path) -> None:
    """Eight tokens at least, as in the paper, would contradict three at most."""
    run(tmp_path / "three", "mini-captions", limit=2, options={"max_new_tokens": 3})
    run(tmp_path / "both", "mini-captions", limit=2, options={"max_new_tokens": 3, "min_new_tokens": 3})
    answers = [row["answer"] for row in rows(tmp_path / "three")]
    assert answers == [row["answer"] for row in rows(tmp_path / "both")] and all(answers)


@pytest.mark.slow
def test_two_processes_give_the_same_answers(tmp_path: Path) -> None:
    """150 pictures are two chunks of images, one for each process."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
    asked = ["-m", "vpgtrans_core.cli.main", "eval", MODEL, "--task", "mini-captions", "--limit", "150", "--quiet"]
    options = ["--num-beams", "1", "--max-new-tokens", "8", "--device", "cpu"]
    for count, name, more in (("1", "1", []), ("2", "2", []), ("2", "shard", ["--shard"])):
        command = [*launch, count, *asked, *options, *more, "--out", str(tmp_path / name)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=280)
        assert ran.returncode == 0, ran.stderr
    one, two, shard = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in ("1", "2", "shard"))
    assert one == two == shard


def test_the_documents_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("docs/evaluation.md", "python")
    exec(compile(block, "docs/evaluation.md", "exec"), {})
    assert 0.4 < float(capsys.readouterr().out) <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "mini-caption"}, "unknown evaluation task 'mini-caption'"),
        ({"metrics": ("ciderr",)}, "unknown metric 'ciderr'"),
        ({"model": None}, "either a model or --predictions"),
        ({"scored": False, "metrics": ("cider",)}, "--no-scores leaves nothing"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"limit": 0, "batch_size": 0}, "batch_size: must be 1 or more"),
    ],
)
def test_wrong_input_writes_nothing(changes: dict, message: str, tmp_path: Path) -> None:
    offline = Settings(device="cpu", offline=True)
    with pytest.raises(VpgtError, match=message):
        run(tmp_path / "eval", **{"task": "mini-captions", "machine": offline, **changes})
    assert not (tmp_path / "eval").exists()


def test_wrong_input_is_met_without_torch() -> None:
    script = (
        "import sys\n"
        "from vpgtrans_core.errors import VpgtError\n"
        "from vpgtrans_core.evaluation.run import EvalSettings, evaluate\n"
        "try:\n    evaluate(EvalSettings(task='vqav2', model='opt-mini-s', data=('nowhere.json',)))\n"
        "except VpgtError as error:\n    print(error.message)\n"
        "assert 'torch' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0 and "no file nowhere.json" in ran.stdout, ran.stderr


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["eval", "--list"])
    listed = capsys.readouterr().out
    assert ended.value.code in (0, None) and "okvqa" in listed and "rouge-l" in listed
    with pytest.raises(SystemExit) as ended:
        main(["eval", MODEL])
    assert ended.value.code == 2 and "add --task NAME" in capsys.readouterr().err
    common = ["--task", "mini-captions", "--limit", "4", "--device", "cpu", "--out", str(tmp_path / "eval"), "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main(["eval", MODEL, *common, "--metric", "cider"])
    out = capsys.readouterr().out
    assert ended.value.code in (0, None) and "CIDEr" in out and f"written to {tmp_path / 'eval'}" in out
    with pytest.raises(SystemExit):
        main(["eval", MODEL, *common, "--metric", "rouge-l", "--json"])
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert list(scores) == ["rouge-l"] and scores["rouge-l"]["all"] > 0.2


@pytest.mark.parametrize(("task", "prompt"), [("mini-questions", "Answer:"), ("mini-captions", "Say {}")])
def test_a_prompt_without_place_for_the_question_is_refused(task: str, prompt: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prompt: "):
        run(tmp_path / "eval", task, limit=2, prompt=prompt)
    assert not (tmp_path / "eval").exists()
