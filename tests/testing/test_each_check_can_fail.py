"""For each check of the kit a plugin that is broken in the way that it looks for, and that it catches."""

from __future__ import annotations

import pytest
import vpg_qformer

from vpgtrans_core.testing.checks import run_check
from vpgtrans_core.testing.llm_checks import LLM_CHECKS
from vpgtrans_core.testing.llm_subject import LLMSubject
from vpgtrans_core.testing.vpg_checks import VPG_CHECKS
from vpgtrans_core.testing.vpg_subject import VPGSubject

LLM_PLUGIN = """
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import EmbeddingAccess, LLMCard, LLMFamily
{extra}

@hookimpl
def vpgt_llm_families():
    card = LLMCard("{name}-1", "", {parameters}, 32, 2, 4, 64, 300, "none", config={config})
    return [LLMFamily("{name}", ("{model_type}",), "{adapter}", (card,) if "{model_type}" == "gpt_neox" else ())]

if {reader!r}:
    @hookimpl
    def vpgt_embedding_access():
        return [EmbeddingAccess(("{model_type}",), "{reader}")]
"""
VPG_PLUGIN = """
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import VPGFamily
{extra}
VPGT_CONFORMANCE = {{"{name}": {{"config": {config}, "unsupported": {{{unsupported}}}}}}}

@hookimpl
def vpgt_vpg_families():
    return [VPGFamily("{name}", ("{model_type}",), "{adapter}")]
"""
LOCAL = 'VPGT_CONFORMANCE = {"broken_llm_%d": {"config": {"attention_types": [[["global", "local"], 1]]}}}'
MISSPELT = 'VPGT_CONFORMANCE = {"broken_llm_%d": {"unsupported": {"packing_change_nothing": "it has a window"}}}'
OTHER = 'VPGT_CONFORMANCE = {"broken_lm_%d": {"config": {}}}'
KEY = 'VPGT_CONFORMANCE = {"broken_llm_%d": {"configs": {}}}'
PARAMETERS = 36_352
"""Of a GPT-NeoX with the card's sizes."""
CONFIG = vpg_qformer.VPGT_CONFORMANCE["qformer"]["config"]
NO_WHOLE = "'whole_model_comes_back': 'no library has a folder for it'"

# check, adapter, further parts of the plugin, a word of the reason
BROKEN_LLMS = [
    ("torch_free_import", "Plain", {"extra": "import torch"}, "imports torch"),
    ("description_resolves", "NoLLM", {}, "not a subclass of LLM"),
    ("description_resolves", "Plain", {"extra": "VPGT_API = 99"}, "incompatible"),
    ("description_resolves", "Plain", {"extra": OTHER}, "no family 'broken_lm_3' (did you mean 'broken_llm_"),
    (
        "description_resolves",
        "Plain",
        {"extra": KEY},
        "declares 'configs', which is not known (did you mean 'config'?)",
    ),
    ("description_resolves", "Plain", {"extra": MISSPELT}, "did you mean 'packing_changes_nothing'"),
    ("tiny_model_loads", "CannotLoad", {}, "never loads"),
    ("embedding_access_has_its_shape", "Plain", {"config": '{"hidden_size": 48}'}, "embeds (300, 48), its card says"),
    ("embedding_access_has_its_shape", "WrongWidth", {}, "soft prompts have 33"),
    ("cards_count_their_parameters", "Plain", {"parameters": 36_999}, "has 36_352 parameters, its card says 36_999"),
    ("embedding_table_is_the_adapters", "Plain", {"reader": "DoubledReader"}, "differ"),
    ("embedding_table_is_what_the_first_block_sees", "DoubledEverywhere", {"reader": "DoubledReader"}, "first block"),
    ("inputs_embeds_equal_input_ids", "ForgetsTheScale", {}, "input_ids"),
    ("padding_changes_nothing", "PaddingIsSeen", {}, "padded rows"),
    ("batching_changes_nothing", "ImagesMix", {}, "a batch"),
    ("packing_changes_nothing", "TreeWithoutMask", {}, "packed rows"),
    ("packing_changes_nothing", "NeverPacks", {}, "does not share"),
    ("packing_changes_nothing", "Plain", {"model_type": "gpt_neo", "extra": LOCAL}, "packed rows"),
    ("labels_are_where_they_belong", "LabelsThePrompt", {}, "prompt is not in the context"),
    ("texts_begin_as_trained", "ForgetsTheOrder", {}, "with bos='first'"),
    ("loss_equals_transformers", "LossOfMean", {}, "transformers'"),
    ("gradient_equals_transformers", "HalfTheGradient", {}, "gradient"),
    ("llm_bits_stay", "WritesToItsWeights", {}, "weights changed"),
    ("gradients_only_where_trained", "NotFrozen", {}, "want gradients"),
    ("generation_ends", "NeverEnds", {}, "was asked for 12"),
    ("saving_and_loading_keep_every_bit", "GrowsWhenLoaded", {}, "tensors changed"),
    ("transfer_of_two_steps", "WrongWidth", {}, ""),
    ("output_loads_in_a_new_process", "SaysItsProcess", {}, "a new process says 'process"),
]
BROKEN_VPGS = [
    ("torch_free_import", "Plain", {"extra": "import torch"}, "imports torch"),
    ("description_resolves", "NoVPG", {}, "not a subclass of VPG"),
    (
        "description_resolves",
        "Plain",
        {"unsupported": "'whole_model_come_back': 'no folder'"},
        "'whole_model_come_back' (did you mean 'whole_model_comes_back'?)",
    ),
    ("shapes_are_as_stated", "WrongShape", {}, "the attributes say"),
    ("description_counts_right", "CountsWrong", {}, "trained is 156, not 7"),
    ("batching_changes_nothing", "NormOfTheBatch", {}, "depends on its batch"),
    ("tiles_are_as_stated", "PromisesMore", {}, "`runs` says [9, 9, 9]"),
    ("features_are_frozen", "DropoutInFeatures", {}, "training mode"),
    ("gradients_only_where_trained", "ForgetsAParameter", {}, "leaves out: mix.bias"),
    ("half_precision_is_for_the_frozen_part", "TrainsInHalf", {}, "bfloat16"),
    ("saving_and_loading_keep_every_bit", "SavesRounded", {}, "tensors changed"),
    ("damaged_folders_are_refused", "LoadsAnything", {}, "without an error"),
    ("whole_model_comes_back", "Plain", {"unsupported": ""}, "only be saved without its LLM"),
    ("transfer_of_two_steps", "TrainsItsPatches", {}, "frozen tensors changed: patches.weight"),
    ("output_loads_in_a_new_process", "KeepsItsMixToItself", {}, "a new process says"),
    (
        "card_says_what_vpgt_caption_says",
        "PrintsSomethingElse",
        {"config": CONFIG, "unsupported": "", "model_type": "blip-2"},
        "the model card's Python prints 'a fish'",
    ),
]


def write(folder, number, kind, adapter, parts):
    """Write a single-file plugin with a name of its own and return its path."""
    name = f"broken_{kind}_{number}"
    adapters = f"tests.testing.broken_{kind}s"
    values = {
        "name": name,
        "adapter": f"{adapters}:{adapter}",
        "extra": "",
        "model_type": {"llm": "gpt_neox", "vpg": "vpgt-kit"}[kind],
        "parameters": PARAMETERS,
        "config": {},
        "unsupported": NO_WHOLE,
    }
    reader = f"{adapters}:{parts['reader']}" if "reader" in parts else ""
    parts = {k: v.replace("%d", str(number)) if isinstance(v, str) else v for k, v in parts.items()}
    text = {"llm": LLM_PLUGIN, "vpg": VPG_PLUGIN}[kind].format(**(values | parts | {"reader": reader}))
    path = folder / f"{name}.py"
    path.write_text(text)
    return str(path)


def results(kind, path, names):
    """Outcome and reason of the named checks on a plugin."""
    checks, subject_class = {"llm": (LLM_CHECKS, LLMSubject), "vpg": (VPG_CHECKS, VPGSubject)}[kind]
    subject = subject_class.open(path)
    try:
        return {c.name: run_check(c, subject) for c in checks if c.name in names}
    finally:
        subject.close()


def cases(table):
    return [pytest.param(n, *case, id=f"{case[0]}-{case[1]}") for n, case in enumerate(table)]


@pytest.mark.parametrize(("number", "check", "adapter", "parts", "said"), cases(BROKEN_LLMS))
def test_broken_llm_is_caught(tmp_path, number, check, adapter, parts, said):
    result = results("llm", write(tmp_path, number, "llm", adapter, parts), {check})[check]
    assert result.outcome == "failed" and said in result.reason, result
    assert result.where


@pytest.mark.parametrize(("number", "check", "adapter", "parts", "said"), cases(BROKEN_VPGS))
def test_broken_vpg_is_caught(tmp_path, number, check, adapter, parts, said):
    result = results("vpg", write(tmp_path, number, "vpg", adapter, parts), {check})[check]
    assert result.outcome == "failed" and said in result.reason, result
    assert result.where


@pytest.mark.parametrize("kind", ["llm", "vpg"])
def test_the_same_plugin_unbroken_passes(tmp_path, kind):
    checks = {"llm": LLM_CHECKS, "vpg": VPG_CHECKS}[kind]
    found = results(kind, write(tmp_path, 100, kind, "Plain", {}), {c.name for c in checks})
    outcomes = {name: r.outcome for name, r in found.items() if r.outcome != "passed"}
    assert outcomes == (
        {}
        if kind == "llm"
        else {
            "whole_model_comes_back": "unsupported",
            "card_says_what_vpgt_caption_says": "unsupported",
        }
    ), found


def test_every_check_has_its_broken_plugin():
    assert {case[0] for case in BROKEN_LLMS} == {c.name for c in LLM_CHECKS}
    assert {case[0] for case in BROKEN_VPGS} == {c.name for c in VPG_CHECKS}


def test_only_optional_checks_may_be_declared_unsupported(tmp_path):
    path = write(tmp_path, 101, "vpg", "CountsWrong", {"unsupported": "'description_counts_right': 'too hard'"})
    result = results("vpg", path, {"description_counts_right"})["description_counts_right"]
    assert result.outcome == "failed" and "may be declared" in result.reason
