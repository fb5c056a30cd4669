"""The shapes of what a run reads back of itself: its record, and the state in its checkpoints.

Both may have been edited since. What does not have its shape is refused in words, before any of it is used; keys that
are not named here are not looked at. A hash only shows that a file is the one that its manifest was written for.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from annotated_types import Ge, Gt, Len
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

Count = Annotated[int, Ge(0)]
EXACT = {"extra": "forbid"}
"""For pydantic: there may be no other keys."""


class FileShape(TypedDict):
    name: str
    bytes: Count


class SourceShape(TypedDict, total=False):
    path: str
    sha256: str
    images: Count
    captions: Count
    files: list[FileShape]


class HeldOutShape(TypedDict, total=False):
    sources: list[SourceShape]


class DataShape(TypedDict, total=False):
    sources: list[SourceShape]
    held_out: HeldOutShape


class ModelShape(TypedDict, total=False):
    sha256: dict[str, str]
    config_sha256: dict[str, str]
    reading_sha256: dict[str, str]


class LossesShape(TypedDict, total=False):
    """What `sight.verdict.Losses.record` returns."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    first: float
    loss: float
    own: float
    exchanged: float
    text_only: float
    source: float
    source_sees: float
    sees: float


class StageShape(TypedDict):
    steps: Count
    name: NotRequired[str]
    sight: NotRequired[LossesShape]


class SourceSightShape(TypedDict, total=False):
    missing: str
    loss: float
    own: float
    exchanged: float
    text_only: float


class BatchShape(TypedDict):
    captions: int
    rule: str


class NarrowedShape(TypedDict):
    units: list[Count]


class ExampleShape(TypedDict):
    image: str
    said: dict[str, str]


class WatchedShape(TypedDict):
    examples: list[ExampleShape]


class RecordShape(TypedDict, total=False):
    """``run.json``. All of it may be missing, because the run ended early."""

    status: str
    started: str
    settings: dict[str, Any]
    source: ModelShape
    target: ModelShape
    data: DataShape
    stages: dict[Annotated[int, Ge(0)], StageShape]
    machine: dict[str, Any]
    batch: BatchShape
    narrowed: NarrowedShape
    watched: WatchedShape
    source_sight: SourceSightShape
    resumed: list[str]
    accepted_changes: list[dict[str, Any]]
    plugins: list[dict[str, Any]]


class BadShape(TypedDict):
    counts: dict[str, int]
    named: list[Annotated[list[str], Len(3, 3)]]
    longest_run: Count
    run: Count
    keys: dict[str, int] | list[str]


class LengthsShape(TypedDict):
    labels: Count
    cut: Count
    silent: Count
    starved: NotRequired[Count]
    lengths: dict[Annotated[int, Ge(0)], Count]
    told: NotRequired[bool]


class FeedShape(TypedDict, total=False):
    bad: list[BadShape]
    lengths: LengthsShape


class BegunDataShape(TypedDict):
    path: str | None
    sha256: str | None
    images: int | None
    captions: int | None
    shards: dict[str, int]


class BegunShape(TypedDict):
    """What `run.identity.identity_of` returns."""

    settings: dict[str, Any]
    data: list[BegunDataShape]
    source: dict[str, dict[str, str]]
    target: dict[str, dict[str, str]]


class EarlyStopShape(TypedDict, total=False):
    __pydantic_config__ = EXACT  # type: ignore[misc]

    patience: int
    least: float
    best: float | None
    waited: Count


class ProgressShape(TypedDict):
    """What `train.stage.StageState` has."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    step: Count
    bad_in_a_row: NotRequired[Count]
    bad_steps: NotRequired[Count]
    images: NotRequired[Count]
    captions: NotRequired[Count]
    seconds: NotRequired[float]
    held_out_loss: NotRequired[float | None]
    first_held_out_loss: NotRequired[float | None]
    llm_at_chance: NotRequired[bool]
    early_stop: NotRequired[EarlyStopShape]
    stopped: NotRequired[bool]
    done: NotRequired[bool]


class GroupShape(TypedDict):
    params: list[Count]
    param_names: list[str]
    peak_lr: float


class OptimizerShape(TypedDict):
    numbers: dict[str, Any]
    groups: list[GroupShape]
    tensors: NotRequired[list[str]]


class StateShape(TypedDict):
    """``state.json`` of a checkpoint."""

    stage: Count
    step: Count
    progress: ProgressShape
    optimizer: OptimizerShape
    scaler: NotRequired[dict[str, float]]
    micro_positions: NotRequired[Annotated[int, Gt(0)]]
    metrics_size: Count
    feed: NotRequired[FeedShape]
    begun_with: NotRequired[BegunShape]
