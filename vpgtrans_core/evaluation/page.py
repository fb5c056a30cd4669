"""One HTML page without anything from elsewhere: pictures with what was said of them, the worst and the best."""

from __future__ import annotations

import html
from collections.abc import Sequence

from vpgtrans_core.evaluation.scoring import EvalResult
from vpgtrans_core.evaluation.task import EvalSample

SIDE = 240
"""Longest side of a picture on the page, in pixels."""
REFERENCES = 5
"""References shown of a sample, without repetitions."""
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c62828; --good: #2e7d32; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { padding: .3rem .9rem; border-bottom: 1px solid var(--line); }
th, td:first-child { text-align: left; } td { text-align: right; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1rem; }
figure { margin: 0; padding: .8rem; border: 1px solid var(--line); border-radius: .5rem; overflow-wrap: anywhere; }
img { max-width: 100%; display: block; margin: 0 auto .6rem; }
.said { font-weight: 600; border-left: .3rem solid; padding-left: .5rem; }
.bad .said { border-color: var(--bad); } .good .said { border-color: var(--good); }
.refs, .score { font-size: .9rem; opacity: .8; margin: .3rem 0 0; padding-left: 1.1rem; } .score { padding: 0; }
"""


def page(result: EvalResult, samples: Sequence[EvalSample], answers: Sequence[str], examples: int) -> str:
    """The page: the table of scores, and `examples` samples, half of them those that the first metric likes least.

    Without scores they are the first samples.
    """
    title = f"{result.model} on {result.task}"
    head, *rows = result.rows()
    table = "<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in head) + "</tr>"
    table += "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    sections = "".join(
        f'<h2>{heading}</h2><div class="samples">'
        + "".join(_figure(samples[i], answers[i], kind, _scores(result, i)) for i in numbers)
        + "</div>"
        for heading, kind, numbers in _chosen(result, len(samples), examples)
        if numbers
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body><h1>{_text(title)}</h1>"
        f"<table>{table}</table>{sections}</body></html>\n"
    )


def _chosen(result: EvalResult, count: int, examples: int) -> list[tuple[str, str, list[int]]]:
    """The sections: heading, class, numbers of samples. Equal scores keep the samples' order."""
    if not result.scored:
        return [("First samples", "", list(range(min(count, examples))))]
    first = result.scored[0]
    order = sorted(range(count), key=lambda i: first.whole.each[i])
    shown = min(count, examples)
    worst = order[: shown // 2]
    best = [i for i in sorted(range(count), key=lambda i: -first.whole.each[i]) if i not in set(worst)]
    lowest, highest = f"Lowest {_text(first.title)}", f"Highest {_text(first.title)}"
    return [(lowest, "bad", worst), (highest, "good", best[: shown - len(worst)])]


def _figure(sample: EvalSample, answer: str, kind: str, scores: str) -> str:
    question = f"<p>{_text(sample.question)}</p>" if sample.question else ""
    references = "".join(f"<li>{_text(one)}</li>" for one in list(dict.fromkeys(sample.references))[:REFERENCES])
    said = _text(answer) or "<em>nothing</em>"
    return (
        f'<figure class="{kind}">{_picture(sample)}{question}<div class="said">{said}</div>'
        f'<ul class="refs">{references}</ul><p class="score">{_text(scores)} · {_text(str(sample.id))}</p></figure>'
    )


def _picture(sample: EvalSample) -> str:
    """The picture as a small JPEG inside the page; a few words where it cannot be read."""
    from vpgtrans_core.data.bad import BadSampleError
    from vpgtrans_core.data.thumbnails import data_address

    try:
        address = data_address(sample.image, SIDE)
    except BadSampleError as error:
        return f"<p><em>{_text(sample.image.name)}: {_text(error.kind)}</em></p>"
    return f'<img alt="{_text(sample.image.name)}" src="{address}">'


def _scores(result: EvalResult, number: int) -> str:
    return ", ".join(f"{one.title} {100 * one.whole.each[number]:.1f}" for one in result.scored)


def _text(value: str) -> str:
    return html.escape(value, quote=True)
