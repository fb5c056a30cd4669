"""The numbers of a run's events under the names by which loggers show them."""

from __future__ import annotations

from vpgtrans_core.cards import RunEvent

KINDS = ("step", "validation", "sight")
"""The events whose numbers are logged."""


def numbers(event: RunEvent) -> dict[str, float]:
    """``"stage 1/loss": 1.23`` and so on; empty for other events."""
    if event.kind not in KINDS:
        return {}
    return {
        f"stage {event.stage}/{name}": float(value)
        for name, value in event.values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
