"""The example of an LLM plugin: it passes the kit and is short; and the guide's story of it is true."""

import llm_granite.adapter
import pytest

from tests.examples.conftest import EXAMPLES
from vpgtrans_core.testing import LLMConformance
from vpgtrans_core.testing.checks import run_check
from vpgtrans_core.testing.llm_checks import LLM_CHECKS
from vpgtrans_core.testing.llm_subject import LLMSubject


class TestGranite(LLMConformance):
    plugin = "llm_granite"


def test_it_takes_at_most_80_lines():
    files = (EXAMPLES / "llm-granite" / "llm_granite").glob("*.py")
    assert sum(len(file.read_text().splitlines()) for file in files) <= 80


@pytest.mark.parametrize(
    ("forgotten", "caught"),
    [
        (("Granite.prepare", "GraniteEmbeddings.vectors"), {"embedding_table_is_what_the_first_block_sees"}),
        (("Granite.prepare",), {"embedding_table_is_the_adapters"}),
        (
            ("GraniteEmbeddings.vectors",),
            {"embedding_table_is_the_adapters", "embedding_table_is_what_the_first_block_sees"},
        ),
    ],
)
def test_what_the_kit_says_of_what_is_forgotten(monkeypatch, forgotten, caught):
    """The story of the guide: without the plugin's parts, the table is not what the first block sees."""
    for name in forgotten:
        owner, method = name.split(".")
        monkeypatch.delattr(getattr(llm_granite.adapter, owner), method)
    subject = LLMSubject.open("llm_granite")
    results = {c.name: run_check(c, subject) for c in LLM_CHECKS if c.name.startswith("embedding_table")}
    subject.close()
    assert {name for name, r in results.items() if r.outcome == "failed"} == caught
    assert all("a scale or projection?" in results[name].reason for name in caught)
