"""The hooks that a plugin may implement. All of them return or take the torch-free objects of `cards`.

A plugin is a module (or object) registered under the entry-point group ``vpgt.plugins``::

    from vpgtrans_core import hookimpl
    from vpgtrans_core.cards import LLMFamily

    @hookimpl
    def vpgt_llm_families():
        return [LLMFamily(name="my_llm", model_types=("my_llm",), adapter="my_plugin.adapter:MyLLM")]
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from vpgtrans_core.cards import Command, EmbeddingAccess, EvalMetric, EvalTask, LLMFamily, RunEvent, VPGFamily

GROUP = "vpgt.plugins"
hookspec = pluggy.HookspecMarker("vpgt")
hookimpl = pluggy.HookimplMarker("vpgt")


@hookspec
def vpgt_llm_families() -> Sequence[LLMFamily]:
    """Return the LLM families that this plugin adds, each with its models.

    Example::

        return [LLMFamily(name="opt", model_types=("opt",), adapter="llm_opt.adapter:OPT", cards=CARDS)]
    """
    return ()


@hookspec
def vpgt_embedding_access() -> Sequence[EmbeddingAccess]:
    """Return how the word embeddings of some model types are read without loading the model.

    Needed only where the table in the checkpoint is not what the LLM's first block sees (OPT-350m's `project_in`,
    Granite's factor); plain tables, and scales that the embedding module applies itself, are found by the core.

    Example::

        return [EmbeddingAccess(model_types=("opt",), reader="llm_opt.embeddings:OPTEmbeddings")]
    """
    return ()


@hookspec
def vpgt_vpg_families() -> Sequence[VPGFamily]:
    """Return the VPG families that this plugin adds, each with the trained sources that it knows.

    Example::

        return [VPGFamily(name="qformer", model_types=("blip-2",), adapter="vpg_qformer.adapter:QFormerVPG")]
    """
    return ()


@hookspec
def vpgt_run_event(event: RunEvent) -> None:
    """Be told what happens in a run: for loggers. What is raised here is reported once and never stops the run.

    Example::

        if event.kind == "step":
            my_logger.log(event.values, step=event.step)
    """


@hookspec
def vpgt_commands() -> Sequence[Command]:
    """Return extra commands for the command line.

    Example::

        return [Command(name="serve", target="my_plugin.serve:main", help="Serve a model over HTTP.")]
    """
    return ()


@hookspec
def vpgt_eval_tasks() -> Sequence[EvalTask]:
    """Return the evaluation tasks that this plugin adds to ``vpgt eval``.

    Example::

        return [EvalTask(name="counting", target="my_plugin.counting:Counting", metrics=("exact",))]
    """
    return ()


@hookspec
def vpgt_eval_metrics() -> Sequence[EvalMetric]:
    """Return the metrics that this plugin adds to ``vpgt eval``.

    Example::

        return [EvalMetric(name="length", target="my_plugin.metrics:Length", help="Words an answer.")]
    """
    return ()
