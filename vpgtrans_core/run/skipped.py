"""The samples that a run skipped and why, for the terminal; run.json names them."""

from __future__ import annotations

from collections import Counter
from typing import Any


def skipped(data: dict[str, Any]) -> list[str]:
    """One line for each source with skipped samples.

    Args:
        data: the record's ``data``: each source with what its reader skipped, and under ``bad`` the bad samples of
            training.
    """
    met = data.get("bad", [])
    lines = []
    for number, source in enumerate(data.get("sources", [])):
        counts = Counter(source.get("skipped", {}).get("counts", {}))
        counts.update(met[number]["counts"] if number < len(met) else {})
        if total := sum(counts.values()):
            kinds = ", ".join(f"{count} x {kind}" for kind, count in counts.most_common())
            samples = "1 sample was" if total == 1 else f"{total} samples were"
            lines.append(f"{source['path']}: {samples} skipped: {kinds} (run.json names them)")
    return lines
