"""The model of lmms-eval: found through its registry by the entry point, and run by its evaluator on local tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.run import tiny_world
from vpgtrans_core.errors import ConfigError, DataError, ModelError
from vpgtrans_core.evaluation.run import EvalSettings
from vpgtrans_core.evaluation.run import evaluate as run_eval
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.miniature.data import items
from vpgtrans_core.settings import Settings
from vpgtrans_core.vlm.captioning import caption

MODEL = "opt-mini-s"
PICTURES = 3
UTILS = """
from pathlib import Path
from PIL import Image

def visual(doc):
    return [Image.open(Path(__file__).parent / name).convert("RGB") for name in doc["images"]]

def question(doc):
    return doc["question"] + "\\nAnswer the question using a single word or phrase."

def results(doc, said):
    return {"exact": float(said[0] == doc["answer"])}
"""
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_visual: !function utils.visual
doc_to_text: {text}
doc_to_target: answer
{more}
metadata:
  - version: 0.0
"""
EXACT = """
process_results: !function utils.results
metric_list:
  - metric: exact
    aggregation: mean
    higher_is_better: true
"""
GENERATION = "generation_kwargs:\n  max_new_tokens: 64\n  num_beams: 1\n  temperature: 0\n"
CHOICE = "doc_to_choice: choices\nmetric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures of the miniature's world, and what its model says of them by itself."""
    folder = tmp_path_factory.mktemp("tasks")
    paths = []
    for item in items("val", PICTURES):
        item.image.save(folder / f"{item.key}.png")
        paths.append(folder / f"{item.key}.png")
    return folder, paths, [said.text for said in caption(MODEL, paths, settings=Settings(device="cpu"))]


@pytest.fixture(scope="module")
def evaluate(pictures):
    """Write a task, then let lmms-eval run it with our model, both by name; a process's settings are put back."""
    folder, paths, _ = pictures
    (folder / "utils.py").write_text(UTILS)
    before = dict(os.environ)
    os.environ |= {"HF_HOME": str(folder / "hf"), "HF_DATASETS_CACHE": str(folder / "hf"), "HF_DATASETS_OFFLINE": "1"}

    def run(name: str, kind: str, text: str, more: str, documents: list[dict], **arguments):
        from lmms_eval.evaluator import simple_evaluate
        from lmms_eval.tasks import TaskManager

        rows = [{"images": [path.name], **document} for path, document in zip(paths, documents, strict=False)]
        data = folder / f"{name}.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)))
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data, kind=kind, text=text, more=more))
        given = ",".join(f"{key}={value}" for key, value in {"pretrained": MODEL, **arguments}.items())
        tasks = TaskManager(include_path=str(folder), include_defaults=False, model_name="vpgt")
        found = simple_evaluate(
            "vpgt", model_args=given, tasks=[name], task_manager=tasks, batch_size=2, device="cpu",
            bootstrap_iters=0, process_docs_parallel=1,
        )  # fmt: skip
        return found["results"][name], sorted(found["samples"][name], key=lambda sample: sample["doc_id"])

    yield run
    os.environ.clear()
    os.environ.update(before)


def test_it_is_in_lmms_evals_registry() -> None:
    from lmms_eval.models import MODEL_REGISTRY_V2, get_model, list_available_models

    assert "vpgt" in list_available_models()
    assert MODEL_REGISTRY_V2.resolve("vpgt").model_type == "simple"
    assert get_model("vpgt").__module__ == "vpgtrans_core.evaluation.lmms_eval"


def test_a_caption_task(evaluate, pictures) -> None:
    """It says what `vpgt caption` says, and the evaluator scores it."""
    text = '"Provide a one-sentence caption for the provided image."'
    said = pictures[2]
    assert len(set(said)) == PICTURES  # the model sees: each picture is another text
    documents = [{"answer": text} for text in (said[0], said[1], "something else")]
    scores, samples = evaluate("captions", "generate_until", text, GENERATION + EXACT, documents)
    assert [sample["filtered_resps"] for sample in samples] == [[text] for text in said]
    assert scores["exact,none"] == pytest.approx(2 / 3)


def test_a_question_task(evaluate, pictures) -> None:
    """Questions are asked in BLIP-2's prompt, two of them of one kind, one of another; a request's end is kept."""
    questions = ["what is it?", "what is it?", "which color is it?"]
    expected = [
        caption(MODEL, [path], prompt=f"Question: {asked} Answer:", settings=Settings(device="cpu"))[0].text
        for path, asked in zip(pictures[1], questions, strict=True)
    ]
    assert all(expected)
    documents = [{"question": q, "answer": e} for q, e in zip(questions, expected, strict=True)]
    more = "generation_kwargs:\n  max_new_tokens: 16\n" + EXACT
    scores, samples = evaluate("questions", "generate_until", "!function utils.question", more, documents)
    assert [sample["filtered_resps"] for sample in samples] == [[text] for text in expected]
    assert scores["exact,none"] == 1.0
    letter = expected[0][2]
    more = f"generation_kwargs:\n  until: [{json.dumps(letter)}]\n" + EXACT
    _, samples = evaluate("cut", "generate_until", "!function utils.question", more, documents[:1])
    assert samples[0]["filtered_resps"] == [expected[0].split(letter)[0].strip()]


def test_vpgt_eval_gives_the_same_answers(evaluate, pictures, tmp_path) -> None:
    """Captions and questions of the same pictures, in files of the official form there and in lmms-eval's here."""
    folder, paths, _ = pictures
    names = [{"id": number, "file_name": path.name} for number, path in enumerate(paths)]
    questions = ["what is it?", "which color is it?", "is there a ball?"]
    asked = [{"question_id": n, "image_id": n, "question": text} for n, text in enumerate(questions)]
    answered = [{"question_id": n, "answers": [{"answer": "red"}] * 10} for n in range(PICTURES)]
    captions = [{"image_id": n, "caption": item.captions[0]} for n, item in enumerate(items("val", PICTURES))]
    files = {
        "captions": {"images": names, "annotations": captions},
        "questions": {"questions": asked},
        "answers": {"annotations": answered},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    def ours(task: str, *given: str) -> list[str]:
        data = tuple(f"{tmp_path / name}.json:{folder}" for name in given)
        run_eval(EvalSettings(task, MODEL, data, out=str(tmp_path / task), machine=Settings(device="cpu")))
        lines = (tmp_path / task / "predictions.jsonl").read_text().splitlines()
        return [json.loads(line)["answer"] for line in lines]

    text = '"Provide a one-sentence caption for the provided image."'
    _, samples = evaluate("same_captions", "generate_until", text, GENERATION + EXACT, [{"answer": ""}] * PICTURES)
    assert [sample["filtered_resps"] for sample in samples] == [[one] for one in ours("coco", "captions")]
    documents = [{"question": one, "answer": ""} for one in questions]
    more = "generation_kwargs:\n  max_new_tokens: 16\n" + EXACT
    _, samples = evaluate("same_answers", "generate_until", "!function utils.question", more, documents)
    answers = ours("vqav2", "questions", "answers", "captions")
    assert len(set(answers)) > 1
    assert [sample["filtered_resps"] for sample in samples] == [[one] for one in answers]


def test_the_tasks_own_words_and_arguments(evaluate, pictures) -> None:
    expected = caption(
        MODEL, pictures[1][:1], prompt="a photo of", settings=Settings(device="cpu"),
        options=GenerateOptions(num_beams=1, max_new_tokens=4, min_new_tokens=1),
    )  # fmt: skip
    more = "generation_kwargs:\n  max_new_tokens: 4\n" + EXACT
    documents = [{"answer": expected[0].text}]
    _, samples = evaluate("own_words", "generate_until", '"a photo of"', more, documents, prompts="task")
    assert samples[0]["filtered_resps"] == [expected[0].text]


def test_a_folder_of_transformers_blip2(evaluate, pictures, tmp_path) -> None:
    llm = tiny_world.save_llm(tmp_path / "opt", "opt")
    folder = tiny_world.save_source(tmp_path / "blip2", llm)
    expected = [said.text for said in caption(str(folder), pictures[1], settings=Settings(device="cpu"))]
    documents = [{"answer": text} for text in expected]
    scores, _ = evaluate("random", "generate_until", '"A caption."', GENERATION + EXACT, documents, pretrained=folder)
    assert scores["exact,none"] == 1.0


def test_a_multiple_choice_task(evaluate, pictures) -> None:
    """The right caption has a smaller loss than that of another picture."""
    said = [item.captions[0] for item in items("val", PICTURES)]
    documents = [{"choices": [said[(n + 1) % PICTURES], said[n]], "answer": 1, "question": ""} for n in range(PICTURES)]
    scores, samples = evaluate("choices", "multiple_choice", '"Which caption fits?"', CHOICE, documents,
                               question_prompt="a{}")  # fmt: skip
    assert scores["acc,none"] == 1.0
    losses = [[loss for loss, _ in sample["filtered_resps"]] for sample in samples]
    assert all(right < wrong for wrong, right in losses)


def test_losses_are_those_of_the_logits(pictures) -> None:
    from lmms_eval.api.instance import Instance
    from lmms_eval.models import get_model
    from PIL import Image

    model = get_model("vpgt")(MODEL, device="cpu")
    picture = Image.open(pictures[1][0]).convert("RGB")
    model.task_dict["t"] = {"test": [None]}

    def ask(said: str) -> tuple[float, bool]:
        arguments = ("Question: which? Answer:", said, lambda doc: [picture], 0, "t", "test")
        metadata = {"task": "t", "doc_id": 0, "repeats": 1}
        (answer,) = model.loglikelihood([Instance("loglikelihood", arguments, 0, metadata)])
        return tuple(answer)

    llm = model.vl.llm
    greedy = caption(
        MODEL, pictures[1][:1], prompt="Question: which? Answer:", settings=Settings(device="cpu"),
        options=GenerateOptions(num_beams=1, min_new_tokens=1),
    )[0].text  # fmt: skip
    assert ask(greedy)[1] and not ask("a large red star")[1]
    from vpgtrans_core.data.images import pixels

    with torch.no_grad():
        soft = model.vl.soft_prompts(pixels(picture, model.vl.vpg.preprocessing)[None], "pixels")
        context = llm.text.prompt_ids("Question: which? Answer:")
        whole = (*llm.text.prompt_ids("Question: which? Answer: a large red star"), llm.text.end)
        words = llm.embed(torch.tensor([whole]))
        logits = llm.model(inputs_embeds=torch.cat([soft, words], 1)).logits[0, soft.shape[1] - 1 : -1].log_softmax(-1)
    nats = -sum(float(logits[i, token]) for i, token in enumerate(whole) if i >= len(context))
    assert ask("a large red star")[0] == pytest.approx(nats, rel=1e-4)


def test_what_is_refused(pictures) -> None:
    from lmms_eval.models import get_model

    model = get_model("vpgt")
    with pytest.raises(ConfigError, match="surprise is not known"):
        model(MODEL, device="cpu", surprise=1)
    with pytest.raises(ConfigError, match="prompts must be one of blip2, task"):
        model(MODEL, device="cpu", prompts="chat")
    with pytest.raises(ModelError):
        model("no-such-model", device="cpu", offline=True)


@pytest.mark.parametrize("count", [0, 2])
def test_one_picture_a_document(count: int, evaluate, pictures) -> None:
    documents = [{"images": [path.name for path in pictures[1][:count]], "answer": "x"}]
    with pytest.raises(DataError, match=f"has {count} pictures"):
        evaluate(f"pictures_{count}", "generate_until", '"A caption."', GENERATION + EXACT, documents)


def test_nothing_else_imports_it() -> None:
    """vpgt works where lmms-eval is not installed."""
    root = Path(__file__).parents[2]
    own = [f"vpgtrans_core.evaluation.{name}" for name in ("lmms_eval", "manifest", "prompts")]
    outside = (
        path for path in (root / "vpgtrans_core").rglob("*.py") if path.name not in ("lmms_eval.py", "manifest.py")
    )
    assert not [path for path in outside if any(name in path.read_text() for name in own)]
    script = (
        "import sys; sys.modules['lmms_eval'] = None; from vpgtrans_core.cli.main import main; main(['list-plugins'])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0
