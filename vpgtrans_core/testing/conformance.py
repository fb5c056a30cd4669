"""The pytest classes: every check is a test, inherited by whoever subclasses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest

from vpgtrans_core.testing.checks import Check, run_check
from vpgtrans_core.testing.llm_checks import LLM_CHECKS
from vpgtrans_core.testing.llm_subject import TOLERANCE, LLMSubject
from vpgtrans_core.testing.vpg_checks import VPG_CHECKS
from vpgtrans_core.testing.vpg_subject import VPGSubject


class Conformance:
    """What both kinds share.

    Attributes:
        plugin: the plugin's name, module, package folder or single file.
        family: which of its families; needed where it has several.
        config: sizes of the tiny model; default what the plugin's VPGT_CONFORMANCE says.
        unsupported: optional checks that the family cannot pass, with the reason; default VPGT_CONFORMANCE.
    """

    plugin: ClassVar[str]
    family: ClassVar[str | None] = None
    config: ClassVar[dict[str, Any] | None] = None
    unsupported: ClassVar[dict[str, str] | None] = None
    subject: ClassVar[Any]

    @classmethod
    def teardown_class(cls) -> None:
        cls.subject.close()


class LLMConformance(Conformance):
    """Every check of an LLM family.

    Attributes:
        tokenizer: a tiny tokenizer in the family's manner; default a byte-level one.
        tolerance: largest relative difference of two ways to compute the same in fp64.
    """

    tokenizer: ClassVar[Any] = None
    tolerance: ClassVar[float] = TOLERANCE

    @classmethod
    def setup_class(cls) -> None:
        options = {"config": cls.config, "unsupported": cls.unsupported, "tokenizer": cls.tokenizer}
        cls.subject = LLMSubject.open(cls.plugin, cls.family, tolerance=cls.tolerance, **options)


class VPGConformance(Conformance):
    """Every check of a VPG family. `config` holds the sizes of a tiny VPG, as in its folder's config.json."""

    @classmethod
    def setup_class(cls) -> None:
        cls.subject = VPGSubject.open(cls.plugin, cls.family, config=cls.config, unsupported=cls.unsupported)


def _test(check: Check) -> Callable[[Any], None]:
    def test(self: Conformance) -> None:
        result = run_check(check, self.subject)
        if result.outcome == "unsupported":
            pytest.skip(f"declared unsupported: {result.reason}")
        if result.outcome == "failed":
            pytest.fail(f"{result.reason}\nlook at: {result.where}", pytrace=False)

    test.__doc__ = check.title
    return test


def _inherit(cls: type, checks: Sequence[Check]) -> None:
    for check in checks:
        setattr(cls, f"test_{check.name}", _test(check))


_inherit(LLMConformance, LLM_CHECKS)
_inherit(VPGConformance, VPG_CHECKS)
