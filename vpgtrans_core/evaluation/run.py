"""An evaluation from start to end: samples, answers, scores, folder. Loads torch only when a model has to answer.

Whatever can be wrong with the input is said before a model is loaded or anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import vpgtrans_core
from vpgtrans_core.cards import EvalMetric, EvalTask, load
from vpgtrans_core.errors import ConfigError, DataError, PluginError, VpgtError
from vpgtrans_core.evaluation.files import DataFiles, open_files, refuse, refuse_missing
from vpgtrans_core.evaluation.folder import EvalFolder, write_answers
from vpgtrans_core.evaluation.given import read_given
from vpgtrans_core.evaluation.metrics.metric import Metric
from vpgtrans_core.evaluation.page import page
from vpgtrans_core.evaluation.scoring import EvalResult, Scored, group_counts, score
from vpgtrans_core.evaluation.task import EvalSample, Id, Task
from vpgtrans_core.files import sha256_file
from vpgtrans_core.models.resolve import resolve_source
from vpgtrans_core.models.resolved import ResolvedSource
from vpgtrans_core.processes.launching import is_main
from vpgtrans_core.registry import Registry, default_registry
from vpgtrans_core.settings import Settings

if TYPE_CHECKING:
    from vpgtrans_core.llm.adapter import GenerateOptions

ROOT = Path("runs", "eval")


class Progress(Protocol):
    """Where the progress goes; the command line has one."""

    def stage(self, name: str, total: int) -> None: ...

    def step(self, advance: int = 1) -> None: ...

    def message(self, text: str) -> None: ...


@dataclass(frozen=True)
class EvalSettings:
    """What to evaluate, and how.

    Attributes:
        task: the task's name.
        model: an alias, hub id or folder of a VL-LLM; None where `predictions` gives the answers.
        data: the task's files, ``FILE.json`` or ``FILE.json:IMAGE_FOLDER``.
        predictions: a file of answers to score.
        out: the output folder; default ``runs/eval/MODEL--TASK``.
        metrics: names of metrics; default the task's.
        scored: False writes answers only, where references are not published.
        limit: only this many samples, the first ones.
        batch_size: texts generated at once.
        prompt: the text before what is generated, with ``{}`` for the question; default none for captions, the LLM
            family's for questions.
        options: changes to the paper's generation, by the names of `GenerateOptions`.
        examples: pictures on the HTML page.
        overwrite: replace another evaluation in `out`.
        machine: device, precision, feature cache and the like.
    """

    task: str
    model: str | None = None
    data: tuple[str, ...] = ()
    predictions: str | None = None
    out: str | None = None
    metrics: tuple[str, ...] = ()
    scored: bool = True
    limit: int | None = None
    batch_size: int = 16
    prompt: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    examples: int = 60
    overwrite: bool = False
    machine: Settings = field(default_factory=Settings)


def evaluate(
    settings: EvalSettings, registry: Registry | None = None, progress: Progress | None = None
) -> EvalResult | None:
    """Evaluate a model, or given answers, on a task.

    Returns:
        the result; None in the processes other than the main one.

    Raises:
        VpgtError: task, metric or model is not known, the data is not that of the task, an image is missing, or the
            folder holds something else.
    """
    registry = registry or default_registry()
    _check(settings)
    card = registry.eval_task(settings.task)
    task: Task = make(card)
    metrics = open_metrics(settings, card, registry)
    files = open_files(card.name, settings.data, card.wants, needs_images=settings.predictions is None)
    samples = read_samples(task, files, settings)
    _check_prompt(settings, samples)
    known: dict[Id, int] = {sample.id: number for number, sample in enumerate(samples)}
    if settings.predictions is not None:
        path = Path(settings.predictions).expanduser()
        given = read_given(path, task, known)
        folder = EvalFolder(_out(settings, path.stem), {**_asked(settings, files), "predictions": sha256_file(path)})
        folder.check(overwrite=settings.overwrite)
        if not is_main():
            return None
        with folder:
            folder.start(overwrite=settings.overwrite)
            return _conclude(settings, task, metrics, samples, given, folder)
    assert settings.model is not None
    source = resolve_source(settings.model, registry, settings.machine)
    prompts, question_prompt = _prompts(settings, task, samples, source)
    identity = {**_asked(settings, files), **_model_identity(settings, source), "question_prompt": question_prompt}
    with EvalFolder(_out(settings, Path(settings.model).name), identity) as folder:
        folder.check(overwrite=settings.overwrite)
        answers = _answer(settings, source, samples, prompts, known, folder, progress)
        return None if answers is None else _conclude(settings, task, metrics, samples, answers, folder)


def _check_prompt(settings: EvalSettings, samples: Sequence[EvalSample]) -> None:
    """Refuse a prompt that has no place for the question: every question would be asked alike."""
    asks = any(sample.question for sample in samples)
    if settings.prompt and asks != ("{}" in settings.prompt):
        wrong = "has no place for the question" if asks else "has {} for a question, and the task asks none"
        hint = "put {} where the question goes: --prompt 'Question: {} Answer:'" if asks else "leave {} out"
        raise ConfigError([f"prompt: {settings.prompt!r} {wrong}"], hint)


def read_samples(task: Task, files: DataFiles, settings: EvalSettings) -> list[EvalSample]:
    """The samples that are asked, with all their images in place.

    Raises:
        DataError: the files are not those of the task, there are no samples, or references or images are missing.
    """
    samples = task.read(files, scored=settings.scored)[: settings.limit]
    if not samples:
        raise DataError(f"there is nothing to ask in the data of the task {settings.task}", files.hint)
    ids = [sample.id for sample in samples]
    if len(set(ids)) < len(ids):
        raise DataError(f"the task {settings.task} has the same id for several samples", "that is a fault of the task")
    if settings.scored:
        lacking = [
            f"{sample.id!r} has nothing to compare an answer with" for sample in samples if not sample.references
        ]
        refuse(lacking, "give the file with the references, or --no-scores to write answers only")
    if settings.predictions is None:
        refuse_missing(sample.image for sample in samples)
    return samples


def open_metrics(settings: EvalSettings, card: EvalTask, registry: Registry) -> dict[str, Metric]:
    """The metrics by name, ready to use.

    Raises:
        VpgtError: one is not known, or what it needs is missing.
    """
    if not settings.scored:
        return {}
    cards = [registry.eval_metric(name) for name in settings.metrics or card.metrics]
    return {one.name: make(one) for one in cards}


def make(card: EvalTask | EvalMetric) -> Any:
    """An object of the class that a card names.

    Raises:
        PluginError: it cannot be imported. VpgtError: the object lacks what it needs.
    """
    try:
        return load(card.target)()
    except VpgtError:
        raise
    except Exception as error:  # a plugin's code may raise anything
        raise PluginError(
            f"{type(card).__name__} {card.name!r} cannot be used: {card.target} raised {type(error).__name__}: {error}",
            "mend the plugin that provides it; `vpgt list-plugins` names it",
        ) from error


def _check(settings: EvalSettings) -> None:
    problems = []
    if (settings.model is None) == (settings.predictions is None):
        problems.append("give either a model or --predictions")
    if settings.limit is not None and settings.limit < 1:
        problems.append(f"limit: must be 1 or more, not {settings.limit}")
    if settings.batch_size < 1:
        problems.append(f"batch_size: must be 1 or more, not {settings.batch_size}")
    if not settings.scored and (settings.predictions or settings.metrics):
        problems.append("--no-scores leaves nothing to do for --predictions and --metric")
    if problems:
        raise ConfigError(problems, "see `vpgt eval --help`")


def _prompts(
    settings: EvalSettings, task: Task, samples: Sequence[EvalSample], source: ResolvedSource
) -> tuple[list[str], str]:
    """The text before each answer, and that for questions with ``{}`` in it."""
    question_prompt = settings.prompt or (source.llm.family.question_prompt if source.llm else "{}")
    prompts = [
        settings.prompt if settings.prompt and not sample.question else task.prompt(sample, question_prompt)
        for sample in samples
    ]
    return prompts, question_prompt


def _answer(
    settings: EvalSettings,
    source: ResolvedSource,
    samples: Sequence[EvalSample],
    prompts: Sequence[str],
    known: Mapping[Id, int],
    folder: EvalFolder,
    progress: Progress | None,
) -> dict[int, str] | None:
    """Let the model answer what has no answer yet; None in the processes other than the main one."""
    answers = {} if settings.overwrite else folder.answers(known)
    if len(answers) < len(samples):
        return _generate(settings, source, samples, prompts, known, folder, progress)
    if not is_main():
        return None
    folder.start(overwrite=False)
    return answers


def _generate(
    settings: EvalSettings,
    source: ResolvedSource,
    samples: Sequence[EvalSample],
    prompts: Sequence[str],
    known: Mapping[Id, int],
    folder: EvalFolder,
    progress: Progress | None,
) -> dict[int, str] | None:
    from accelerate import PartialState

    from vpgtrans_core.evaluation.answering import answer, refuse_long
    from vpgtrans_core.evaluation.encoding import image_encoder
    from vpgtrans_core.machine import choose_machine
    from vpgtrans_core.vlm.assemble import load_whole

    options = _options(settings)
    for prompt in {bool(prompt): prompt for prompt in prompts}.values():
        options(prompt)  # said before the model is loaded
    half = source.llm.family.half if source.llm else "float32"
    machine = choose_machine(settings.machine, half)
    model = load_whole(source, machine, settings.machine, lazily=True)
    refuse_long(model, samples, prompts, options)
    state = PartialState()
    if state.is_main_process:
        folder.start(overwrite=settings.overwrite)
    state.wait_for_everyone()
    answers = folder.answers(known)
    state.wait_for_everyone()  # nobody writes before all have read
    say = (lambda text: None) if progress is None else progress.message
    images = len({sample.image.name for sample in samples})
    encoding = image_encoder(model, settings.batch_size, machine.dtype, settings.machine, images=images, say=say)
    with folder.append_to(state.process_index) as file, encoding as encoder:
        if progress:
            progress.stage("answering", -(-(len(samples) - len(answers)) // state.num_processes))
        part = (state.process_index, state.num_processes)
        batches = answer(
            model, samples, prompts, options, batch=settings.batch_size, done=set(answers), part=part,
            encoder=encoder,
        )  # fmt: skip
        for batch in batches:
            write_answers(file, [(samples[number].id, text) for number, text in batch])
            if progress:
                progress.step(len(batch))
    state.wait_for_everyone()
    return folder.answers(known) if state.is_main_process else None


def _options(settings: EvalSettings) -> Callable[[str], GenerateOptions]:
    """How to generate after a prompt: as in the paper, with the user's changes. A short maximum lowers the minimum.

    The function raises ConfigError where a minimum of the user's is above the maximum.
    """
    from vpgtrans_core.vlm.captioning import default_options

    def options(prompt: str) -> GenerateOptions:
        changed = replace(default_options(prompt), **settings.options)
        shortest = settings.options.get("min_new_tokens", min(changed.min_new_tokens, changed.max_new_tokens))
        if shortest > (longest := changed.max_new_tokens):
            raise ConfigError(
                [f"min_new_tokens: {shortest} is more than max_new_tokens, {longest} for {_what(prompt)}"],
                "lower --min-new-tokens, or raise --max-new-tokens",
            )
        return replace(changed, min_new_tokens=shortest)

    return options


def _what(prompt: str) -> str:
    return "answers" if prompt else "captions"


def _conclude(
    settings: EvalSettings,
    task: Task,
    metrics: Mapping[str, Metric],
    samples: Sequence[EvalSample],
    answers: Mapping[int, str],
    folder: EvalFolder,
) -> EvalResult:
    """Score and write."""
    texts = [answers[number] for number in range(len(samples))]
    scored = score(metrics, samples, texts)
    name = settings.model or str(settings.predictions)
    result = EvalResult(settings.task, name, str(folder.path), len(samples), group_counts(samples), scored)
    rows = (_row(sample, texts[number], number, scored) for number, sample in enumerate(samples))
    submission = task.submission(zip(samples, texts, strict=True))
    folder.finish(rows, submission, page(result, samples, texts, settings.examples), result.as_dict())
    return result


def _row(sample: EvalSample, answer: str, number: int, scored: Sequence[Scored]) -> dict[str, Any]:
    """A sample's line in ``predictions.jsonl``."""
    values = asdict(sample) | {"image": sample.image.name, "answer": answer}
    return values | {"scores": {one.name: one.whole.each[number] for one in scored}}


def _asked(settings: EvalSettings, files: DataFiles) -> dict[str, Any]:
    """What makes two evaluations the same, but for the model."""
    return {"vpgt": vpgtrans_core.__version__, "task": settings.task, "data": files.hashes(), "limit": settings.limit}


def _model_identity(settings: EvalSettings, source: ResolvedSource) -> dict[str, Any]:
    """The model and how it answers. A model that was trained anew in the same place is another one."""
    machine = {name: getattr(settings.machine, name) for name in ("dtype", "quantization")}
    asked = {"prompt": settings.prompt, "options": dict(settings.options), "batch_size": settings.batch_size}
    folders = dict.fromkeys(part.folder for part in (source, source.llm) if part and part.folder)
    inside = [path for folder in folders for path in sorted(Path(folder).glob("*"))]
    kept = [path for path in inside if path.suffix in (".json", ".safetensors")]
    stats = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in kept]
    return {"model": settings.model, "files": stats, **asked, **machine}


def _out(settings: EvalSettings, name: str) -> Path:
    return Path(settings.out).expanduser() if settings.out else ROOT / f"{name}--{settings.task}"
