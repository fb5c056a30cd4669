"""The example of an LLM plugin: it passes the kit, is short, and its cards are right."""

from tests.examples.conftest import EXAMPLES
from vpgtrans_core.testing import LLMConformance
from vpgtrans_core.testing.checks import run_check
from vpgtrans_core.testing.llm_checks import LLM_CHECKS
from vpgtrans_core.testing.llm_subject import LLMSubject


class TestGemma(LLMConformance):
    plugin = "llm_gemma"


def test_it_takes_at_most_80_lines():
    files = (EXAMPLES / "llm-gemma" / "llm_gemma").glob("*.py")
    assert sum(len(file.read_text().splitlines()) for file in files) <= 80


def test_without_the_scale_the_kit_says_so(monkeypatch):
    """The story of the guide: the reader forgotten, the table is too small by the square root of the width."""
    monkeypatch.setattr("llm_gemma.embeddings.GemmaEmbeddings.vectors", lambda self, rows, extra: rows)
    subject = LLMSubject.open("llm_gemma")
    wanted = {"embedding_table_is_the_adapters", "embedding_table_is_what_the_first_block_sees"}
    failed = {c.name for c in LLM_CHECKS if c.name in wanted and run_check(c, subject).outcome == "failed"}
    subject.close()
    assert failed == wanted
