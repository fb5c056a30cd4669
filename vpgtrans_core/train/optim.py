"""Optimisers, learning rates and optimiser states: AdamW by default, Muon for a projector initialised from words.

Before every step the learning rates are set to a share of their peaks that depends only on the number of the step. The
peaks are part of the optimiser's state, so an exact restart needs nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vpgtrans_core.errors import ModelError
from vpgtrans_core.train.checkpoint import CHANGED

NamedParameters = Iterable[tuple[str, nn.Parameter]]

MUON_STEP = 0.15
"""Length of a Muon step at the peak learning rate, relative to the initial norm of the projector."""
MUON_MOMENTUM = 0.5
MUON_MINIMUM = 0.1
"""Learning rate at the end of the cosine, as a share of the peak."""
MEASURED = "measured"
"""Marks a group whose peak learning rate follows from the weight at the stage's start; later only its state has it."""


# ---------------------------------------------------------------------------------------------------- optimisers


def adamw(parameters: NamedParameters, lr: float, weight_decay: float = 0.05) -> torch.optim.AdamW:
    """AdamW with the paper's groups (LAVIS): no weight decay for biases, norms and other one-dimensional parameters.

    Args:
        parameters: names and parameters; those without ``requires_grad`` are left out.
        lr: the peak learning rate.
        weight_decay: weight decay of the matrices; 0.05 in the paper.
    """
    trained = [(name, p) for name, p in parameters if p.requires_grad]
    groups = [
        {"params": [(n, p) for n, p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [(n, p) for n, p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = True if trained and all(p.device.type == "cuda" for _, p in trained) else None  # one kernel for all
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=fused)
    return _with_peaks(optimizer)


def muon(
    projector: nn.Linear,
    lr: float,
    step: float = MUON_STEP,
    name: str = "projector",
    others: NamedParameters = (),
    weight_decay: float = 0.05,
) -> Together:
    """Muon on the projector's weight, AdamW on its bias and on what is trained beside it, as one optimiser.

    A step moves the weight along the orthogonalised direction by `step` times its present Frobenius norm, so that
    nothing depends on the scale of the LLM's embeddings. Call it before the first step and, when resuming, after the
    weights are restored; the learning rate itself is part of the optimiser's state.

    Args:
        projector: weight ``[D_t, D]`` and bias ``[D_t]``, or a weight alone.
        lr: AdamW's peak learning rate.
        step: length of a step of Muon relative to the weight's norm.
        name: prefix of the projector's parameters' names.
        others: names and parameters that are trained beside it.
        weight_decay: of the others' matrices.
    """
    weights = torch.optim.Muon(
        [(f"{name}.weight", projector.weight)],
        lr=muon_rate(projector.weight, step),
        momentum=MUON_MOMENTUM,
        weight_decay=0.0,
    )
    weights.param_groups[0][MEASURED] = True
    bias = [] if projector.bias is None else [(f"{name}.bias", projector.bias)]
    beside = [*bias, *others]
    return Together(_with_peaks(weights), *([adamw(beside, lr, weight_decay)] if beside else []))


def muon_rate(weight: Tensor, step: float = MUON_STEP) -> float:
    """The `lr` of ``torch.optim.Muon`` for which one step has `step` times the length of `weight` ``[D_t, D]``.

    An orthogonalised ``[D_t, D]`` matrix has the Frobenius norm ``sqrt(min(D_t, D))``, and torch multiplies the `lr`
    by ``sqrt(max(1, D_t / D))``.
    """
    rows, columns = weight.shape
    length = math.sqrt(min(rows, columns)) * math.sqrt(max(1.0, rows / columns))
    return step * float(weight.detach().double().norm()) / length


class Together(torch.optim.Optimizer):
    """Several optimisers behind the interface of one: for Accelerate, gradient scalers and checkpoints."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        super().__init__([p for o in optimizers for group in o.param_groups for p in group["params"]], {})
        # The same dicts as the parts', so that a learning rate set here acts there.
        self.param_groups = [group for o in optimizers for group in o.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step with each part; closures are not supported."""
        if closure is not None:
            raise NotImplementedError("Together takes no closure")
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """The parts' states in torch's own form, their parameters numbered through."""
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        for optimizer in self.optimizers:
            part, first = optimizer.state_dict(), _count(groups)
            state |= {first + index: values for index, values in part["state"].items()}
            groups += [{**g, "params": [first + i for i in g["params"]]} for g in part["param_groups"]]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give each part its share of what `state_dict` returned."""
        groups, first = list(state_dict["param_groups"]), 0
        for optimizer in self.optimizers:
            own = [groups.pop(0) for _ in optimizer.param_groups]
            size = _count(own)
            state = {i - first: v for i, v in state_dict["state"].items() if first <= i < first + size}
            shifted = [{**g, "params": [i - first for i in g["params"]]} for g in own]
            optimizer.load_state_dict({"state": state, "param_groups": shifted})
            first += size
        self.param_groups = [group for o in self.optimizers for group in o.param_groups]


def _count(groups: Sequence[dict[str, Any]]) -> int:
    return sum(len(group["params"]) for group in groups)


def _with_peaks(optimizer: Any) -> Any:
    """Store the peak learning rate in every group."""
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


# ----------------------------------------------------------------------------------------------------- schedules


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times its peak. Call it before each step."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def constant(step: int) -> float:
    """The paper's schedule of stage 1, the warm-up of the projector: a constant learning rate."""
    return 1.0


def linear_warmup_cosine(
    step: int, total: int, peak: float, minimum: float, warmup_steps: int = 0, warmup_lr: float = 0.0
) -> float:
    """The paper's schedule of stage 2 (LAVIS): a linear warm-up of the learning rate, then a cosine decay.

    Args:
        step: the number of steps taken so far.
        total: the number of steps of the stage.
        peak, minimum: the peak learning rate, and the learning rate at the end.
        warmup_steps: steps from `warmup_lr` to `peak`; a shorter run does not reach the peak, as in LAVIS.
        warmup_lr: the learning rate of step 0 if there are warm-up steps.

    Returns:
        the learning rate itself; divide by `peak` for `set_rates`.
    """
    if step < warmup_steps:
        return warmup_lr + (peak - warmup_lr) * step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total - warmup_steps))
    return minimum + (peak - minimum) * 0.5 * (1.0 + math.cos(math.pi * progress))


def muon_schedule(step: int, total: int) -> float:
    """Muon's factor: a cosine to a tenth. No warm-up: a step's length does not depend on the gradient."""
    return linear_warmup_cosine(step, total, 1.0, MUON_MINIMUM)


# ----------------------------------------------------------------------------------------------------- gradients


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients down to `max_norm` (0 turns this off) and return their norm before that.

    If the norm is not finite, the gradients stay unchanged: the caller checks it with ``math.isfinite``, skips the step
    and counts it.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    value = float(norm)
    if max_norm > 0 and math.isfinite(value) and value > max_norm:
        torch._foreach_mul_(gradients, max_norm / value)
    return value


# ---------------------------------------------------------------------------------------------------- early stop


@dataclass
class EarlyStop:
    """Stops when the held-out loss no longer falls: `patience` measurements in a row without a relative fall of
    `least`."""

    patience: int = 3
    least: float = 0.005
    best: float | None = None
    waited: int = 0

    def update(self, loss: float) -> bool:
        """Take one held-out loss and return whether training should stop. A NaN counts as no fall."""
        if math.isfinite(loss) and (self.best is None or loss < self.best - self.least * abs(self.best)):
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        return self.waited >= self.patience

    def state(self) -> dict[str, Any]:
        """The state as plain numbers; ``EarlyStop(**state)`` restores it."""
        return asdict(self)


# --------------------------------------------------------------------------------------------------- checkpoints


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state into named tensors (for safetensors) and plain numbers (for json).

    Returns:
        tensors named ``PARAMETER/STATE`` (for instance ``projector.bias/exp_avg``) and the groups' numbers.
    """
    state = optimizer.state_dict()
    names = _names(state)
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{names[index]}/{key}"] = value
    return tensors, {"numbers": numbers, "groups": state["param_groups"], "tensors": sorted(tensors)}


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    """Restore what `optimizer_tensors` returned. The groups keep the rates of their own settings, but a measured one.

    Raises:
        ModelError: the state belongs to other parameters, or has tensors that no such optimiser has.
    """
    own = optimizer.state_dict()
    names = _names(own)
    if _names({"param_groups": numbers["groups"]}) != names:
        raise ModelError(
            "the optimiser state in the checkpoint belongs to other parameters than the trainable ones",
            "resume with the settings of the run, or start it again with --overwrite",
        )
    indices = {name: index for index, name in names.items()}
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **numbers["numbers"]}.items():
        parameter, _, key = name.rpartition("/")
        if parameter not in indices:
            raise ModelError(f"the optimiser state in the checkpoint names an unknown parameter {parameter!r}", CHANGED)
        state.setdefault(indices[parameter], {})[key] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    _check_tensors(tensors, {names[i]: p for i, p in enumerate(parameters)}, numbers.get("tensors"))
    for group, saved in zip(own["param_groups"], numbers["groups"], strict=True):
        if group.get(MEASURED):
            group["peak_lr"] = _rate(saved["peak_lr"])
    optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})


def _check_tensors(tensors: dict[str, Tensor], parameters: dict[str, nn.Parameter], names: list[str] | None) -> None:
    """Raises:
    ModelError: tensors are missing, or have another size or precision than their parameter, or are not finite.
    """
    problems = [f"it has no {name}" for name in names or () if name not in tensors]
    for name, tensor in tensors.items():
        parameter = parameters[name.rpartition("/")[0]]
        shapes = (torch.Size(), parameter.shape)  # counts of steps have none
        if tensor.shape not in shapes or (tensor.dim() and tensor.dtype != parameter.dtype):
            problems.append(f"{name} is {tensor.dtype} {list(tensor.shape)}, of {parameter.dtype} {list(shapes[1])}")
        elif not bool(tensor.isfinite().all()):
            problems.append(f"{name} has values that are not finite")
    if problems:
        raise ModelError(f"the optimiser state in the checkpoint is not usable: {'; '.join(problems[:8])}", CHANGED)


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ModelError(f"the optimiser state in the checkpoint has the learning rate {value!r}", CHANGED)
    return float(value)


def _names(state: dict[str, Any]) -> dict[int, str]:
    """The parameters' names by their numbers in a state_dict."""
    return {i: n for g in state["param_groups"] for i, n in zip(g["params"], g["param_names"], strict=True)}
