"""vpgt's own evaluation tasks and metrics, registered as any plugin's are."""

from __future__ import annotations

from vpgtrans_core.cards import EvalMetric, EvalTask
from vpgtrans_core.hookspecs import hookimpl

VPGT_API = 1
_TASKS = "vpgtrans_core.evaluation.tasks"
_METRICS = "vpgtrans_core.evaluation.metrics"
_MINI = "vpgtrans_core.miniature.tasks"
_CAPTION = ("cider", "bleu4", "rouge-l")


@hookimpl
def vpgt_eval_tasks() -> list[EvalTask]:
    two = "questions and annotations, two files; a third with COCO's list of images where they have other names"
    return [
        EvalTask("coco", f"{_TASKS}.coco:CocoCaption", _CAPTION, "COCO Caption, Karpathy's test split",
                 "dataset_coco.json, coco_karpathy_test.json, or a caption file in COCO's form"),
        EvalTask("nocaps", f"{_TASKS}.nocaps:NoCaps", _CAPTION, "NoCaps by domain", "nocaps_val_4500_captions.json"),
        EvalTask("vqav2", f"{_TASKS}.vqav2:VQAv2", ("vqa",), "VQAv2", two),
        EvalTask("gqa", f"{_TASKS}.gqa:GQA", ("exact",), "GQA", "testdev_balanced_questions.json"),
        EvalTask("okvqa", f"{_TASKS}.okvqa:OKVQA", ("vqa",), "OK-VQA", two),
        EvalTask("mini-captions", f"{_MINI}:MiniCaptions", _CAPTION, "the miniature's pictures"),
        EvalTask("mini-held", f"{_MINI}:MiniHeld", _CAPTION, "combinations that no training picture shows"),
        EvalTask("mini-questions", f"{_MINI}:MiniQuestions", ("exact",), "questions about its pictures"),
        EvalTask("mini-steps", f"{_MINI}:MiniSteps", ("exact",), "questions of several steps"),
        EvalTask("mini-knowledge", f"{_MINI}:MiniKnowledge", ("exact",), "questions that need knowledge"),
    ]  # fmt: skip


@hookimpl
def vpgt_eval_metrics() -> list[EvalMetric]:
    return [
        EvalMetric(
            "cider", f"{_METRICS}.cider:Cider", "agreement with the captions of people, rare n-grams count more"
        ),
        EvalMetric("bleu4", f"{_METRICS}.bleu:Bleu4", "precision of n-grams up to four words, over all captions"),
        EvalMetric("rouge-l", f"{_METRICS}.rouge:RougeL", "longest common subsequence with a reference"),
        EvalMetric("vqa", f"{_METRICS}.vqa:VQAAccuracy", "VQA's accuracy over ten annotators"),
        EvalMetric("exact", f"{_METRICS}.exact:Exact", "the same answer but for case and punctuation"),
        EvalMetric("meteor", f"{_METRICS}.java:Meteor", "stems and synonyms count too; needs Java"),
        EvalMetric("spice", f"{_METRICS}.java:Spice", "scene graphs of the captions; needs Java"),
    ]
