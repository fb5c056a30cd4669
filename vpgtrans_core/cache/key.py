"""The key of a cache: everything that decides what a VPG computes from an image, except the image."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch

from vpgtrans_core.data.sample import CachedKind
from vpgtrans_core.vpg.adapter import VPG, Preprocessing

Kind = CachedKind
"""The VPG's outputs ``[Q, D]`` (fp32), for stages that leave the VPG as it is, or its frozen features ``[N, C]``, for
those that train it."""
FORMAT = 2
"""Grows whenever the same key would mean other numbers: another decoding, cropping or layout of shards."""


@dataclass(frozen=True)
class CacheKey:
    """What has to agree before an entry may stand for a computation. Which image and view it is, the entry's own
    name says (see `names`).

    Attributes:
        kind: what is kept.
        vpg: SHA-256 of the VPG's weights: of all for outputs, of the frozen ones for features.
        dtype: the precision of the frozen part; of outputs that were computed without autocast after a frozen part in
            half precision, as a finished model computes them, followed by ``+float32``.
        preprocessing: size, mean and deviation of the pixels.
        shape: of one entry, or of one tile of it.
        tiles: of a usual picture, by which room is planned; 0 where pictures are not cut. It follows from the
            preprocessing.
    """

    kind: Kind
    vpg: str
    dtype: str
    preprocessing: dict[str, Any]
    shape: tuple[int, ...]
    tiles: int = 0

    @classmethod
    def of(cls, vpg: VPG, kind: Kind, dtype: torch.dtype, *, training: bool = True) -> CacheKey:
        """The key of what `vpg`, as it is now, computes with its frozen part in `dtype`; in `training` the rest is
        computed under autocast."""
        other = kind == "outputs" and not training and dtype != torch.float32
        return cls(
            kind=kind,
            vpg=vpg.fingerprint(trained=kind == "outputs"),
            dtype=str(dtype).removeprefix("torch.") + ("+float32" if other else ""),
            preprocessing=_preprocessing(vpg.preprocessing),
            shape=tuple(vpg.feature_shape) if kind == "features" else (vpg.num_prompts, vpg.output_size),
            tiles=vpg.preprocessing.usual_tiles if vpg.preprocessing.tiled else 0,
        )

    @property
    def entry_dtype(self) -> torch.dtype:
        """Outputs are fp32 in any case; features stay in the precision they were computed in."""
        dtype: torch.dtype = torch.float32 if self.kind == "outputs" else getattr(torch, self.dtype)
        return dtype

    @property
    def entry_bytes(self) -> int:
        """Bytes of one view of one image, of a usual picture where pictures are cut."""
        return torch.Size(self.shape).numel() * self.entry_dtype.itemsize * max(1, self.tiles)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, unchanged by writing and reading json."""
        values: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **dataclasses.asdict(self)}))
        del values["tiles"]
        return values

    @property
    def folder(self) -> str:
        """The name of the cache's folder below the root."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _preprocessing(preprocessing: Preprocessing) -> dict[str, Any]:
    """Its values, and which class reads them where that is a family's own."""
    own = {} if type(preprocessing) is Preprocessing else {"class": type(preprocessing).__qualname__}
    return {**dataclasses.asdict(preprocessing), **own}
