"""What a report is made of: sections of texts, tables and charts, as Markdown or as one HTML page. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources

from vpgtrans_core.lab.charts import Series


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; the first column holds names, the others figures or words; ``\\n`` in a cell is a new line."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Charts:
    """Charts beside each other, with one legend."""

    title: str
    charts: Sequence[tuple[str, str]]
    """Title and SVG of each."""
    legend: Sequence[Series]


Block = Text | Table | Charts


@dataclass(frozen=True)
class Section:
    title: str
    blocks: list[Block] = field(default_factory=list)


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The report as Markdown: without the charts, which the page has."""
    lines = [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            lines += _markdown_block(block)
    return "\n".join(lines).rstrip() + "\n"


def _markdown_block(block: Block) -> list[str]:
    if isinstance(block, Text):
        return [block.text, ""]
    if isinstance(block, Table):
        head = [f"**{block.title}**", ""] if block.title else []
        cells = [[cell.replace("|", "\\|").replace("\n", "<br>") for cell in row] for row in (block.head, *block.rows)]
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        return [*head, lines[0], "|" + "---|" * len(block.head), *lines[1:], ""]
    return []


def html(title: str, sections: Sequence[Section]) -> str:
    """The report as one page that needs no other file."""
    style = resources.files("vpgtrans_core.lab").joinpath("page.css").read_text(encoding="utf-8")
    body = [f"<h1>{escape(title)}</h1>"]
    for section in sections:
        body.append(f"<section><h2>{escape(section.title)}</h2>")
        body += [_html_block(block) for block in section.blocks]
        body.append("</section>")
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
    )
    return head + "<body><main>" + "\n".join(body) + "</main></body></html>\n"


def _html_block(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Table):
        return _html_table(block)
    legend = "".join(f'<span class="key c{s.colour}">{escape(s.name)}</span>' for s in block.legend)
    charts = "".join(f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>" for name, svg in block.charts)
    return f'<h3>{escape(block.title)}</h3><div class="legend">{legend}</div><div class="charts">{charts}</div>'


def _html_table(table: Table) -> str:
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
    rows = "".join("<tr>" + "".join(map(_cell, row, table.head)) + "</tr>" for row in table.rows)
    return f'{title}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


LONG = 28
"""Letters from which a cell's text is broken into lines."""
MANY = 3
"""Lines after a cell's first from which they are folded."""
VERDICTS = {"reproduced": "yes", "not reproduced": "no", "not testable here": "open"}


def _cell(text: str, head: str) -> str:
    """A cell; where the screen is narrow a row becomes lines, and each names its column."""
    kind = f"verdict {VERDICTS[text]}" if text in VERDICTS else "long" if len(text) > LONG else ""
    return f'<td class="{kind}" data-head="{escape(head)}">{_lines(text)}</td>'


def _lines(text: str) -> str:
    """Text in lines; of many only the first shows until it is clicked."""
    first, *more = escape(text).split("\n")
    if len(more) < MANY:
        return "<br>".join([first, *more])
    return f"<details><summary>{first}</summary>{'<br>'.join(more)}</details>"
