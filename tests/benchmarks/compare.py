"""How far a variant's gradients are from the plain ones."""

import torch
from variants import VARIANTS, Variant


def plain_of(variant: Variant) -> Variant:
    return next(v for v in VARIANTS if v.stage == variant.stage and v.name == "plain")


def difference(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest relative error of a parameter's gradient. One that is zero in exact arithmetic (that of a key's bias,
    behind a softmax) is measured against the others."""
    assert found.keys() == wanted.keys()
    scale = max(float(g.norm()) for g in wanted.values())
    return max(float((found[n] - g).norm()) / max(float(g.norm()), 1e-3 * scale) for n, g in wanted.items())
