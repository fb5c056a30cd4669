"""Word embeddings without the model: one matrix, by name, out of a checkpoint that may be far larger.

The word converter needs the embeddings of two LLMs and nothing else of them. A reader finds the table's name on an
empty model built from the config, opens the checkpoint by name, and gives rows as they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import LLM_PREFIX
from vpgtrans_core.llm.empty import empty_model
from vpgtrans_core.weights import Weights, check_finite, check_shapes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

CHUNK = 8192
"""Rows that are in memory twice while a whole table is made."""


class EmbeddingReader:
    """How the checkpoint of one model becomes the table that its first block sees.

    A family whose table needs more than a factor overrides `extra` and `vectors`; OPT-350m's projection is::

        def extra(self):
            return ("model.decoder.project_in.weight",)

        def vectors(self, rows, extra):
            return rows @ extra["model.decoder.project_in.weight"].T

    Args:
        model: the model on the meta device: names, shapes and config, no weights.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.config = model.config
        module: Any = model.get_input_embeddings()
        if not isinstance(getattr(module, "weight", None), Tensor):
            raise ModelError(
                f"vpgt cannot read the word embeddings of {type(model).__name__}: its get_input_embeddings() gives "
                f"{type(module).__name__}, which has no table of weights",
                "a plugin's class of the model can return the table there: see docs/plugins.md",
            )
        self.shape: tuple[int, int] = tuple(module.weight.shape)
        self.names = _names_of(model, module.weight)
        plain = type(self).vectors is EmbeddingReader.vectors
        self.scale = _scale(module, must_know=plain)

    def extra(self) -> tuple[str, ...]:
        """Names of further tensors that `vectors` needs, as in the model's ``state_dict()``."""
        return ()

    def vectors(self, rows: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        """Rows of the checkpoint's table ``[N, d]`` in fp32 to what the first block sees, ``[N, D]`` in fp32.

        It must treat each row by itself: it is called with parts of the table.
        """
        return rows if self.scale == 1 else rows * self.scale


@dataclass(frozen=True)
class Embeddings:
    """The word embeddings of one LLM, on disk until they are asked for. Call it with ids ``[N]`` for ``[N, D]``."""

    reader: EmbeddingReader
    stored: Tensor
    """The checkpoint's table ``[V, d]`` in its precision, mapped from the file."""
    extra: dict[str, Tensor]

    def __call__(self, ids: Tensor) -> Tensor:
        """Embeddings ``[N, D]`` in fp32 of ids ``[N]``."""
        return self.reader.vectors(self.stored[ids.cpu()].float(), self.extra)

    def __len__(self) -> int:
        return self.stored.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """``(V, D)``."""
        return len(self), self(torch.zeros(1, dtype=torch.long)).shape[1]

    def table(self) -> Tensor:
        """The whole table ``[V, D]`` in fp32."""
        table = torch.empty(self.shape)
        for start in range(0, len(self), CHUNK):
            rows = self.stored[start : start + CHUNK].float()
            table[start : start + len(rows)] = self.reader.vectors(rows, self.extra)
        return table


def open_embeddings(
    folder: str | Path,
    reader: type[EmbeddingReader] = EmbeddingReader,
    *,
    trust_remote_code: bool = False,
    prefix: str = LLM_PREFIX,
) -> Embeddings:
    """Open the word embeddings of an LLM's folder, or of the LLM inside a VL-LLM's folder.

    Args:
        folder: a folder with config.json and weights, sharded or not.
        reader: the family's reader, from its `EmbeddingAccess`; default the plain one.
        trust_remote_code: whether code that comes with the folder may run.
        prefix: what the LLM's names begin with in a VL-LLM's folder.

    Raises:
        ModelError: no such model, no access to its embeddings, or tensors that are missing, misshapen or not finite.
    """
    config = text_config(folder, trust_remote_code=trust_remote_code)
    made = reader(empty_model(config, trust_remote_code=trust_remote_code))
    weights = Weights(folder)
    shapes = {name: tuple(value.shape) for name, value in made.model.state_dict().items()}
    table = _find(weights, made.names, folder, prefix)
    found = {name: _find(weights, [name], folder, prefix) for name in made.extra()}
    check_shapes(
        {made.names[0]: made.shape, **{name: shapes[name] for name in found}},
        {made.names[0]: weights.shape(table), **{name: weights.shape(key) for name, key in found.items()}},
        folder,
    )
    stored, extra = weights.read(table), {name: weights.read(key).float() for name, key in found.items()}
    check_finite({table: stored, **extra}, folder)
    return Embeddings(made, stored, extra)


def text_config(folder: str | Path, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The config of the LLM in a folder: its own, or the one inside a VL-LLM's.

    Raises:
        ModelError: as `folder_config`.
    """
    config = folder_config(folder, trust_remote_code=trust_remote_code)
    return getattr(config, "text_config", None) or config


def folder_config(folder: str | Path, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The config of the model in a folder.

    Raises:
        ModelError: no config, one of an unknown kind, or one that wants code which is not trusted.
    """
    from transformers import AutoConfig

    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} is not a model folder: it has no config.json", "give a folder that save_pretrained wrote"
        )
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers checks its configs with many kinds of error
        hint = "give --trust-remote-code to run the code in the folder" if wants_code(path) else ""
        raise ModelError(f"the installed transformers does not support the model in {path}: {error}", hint) from error
    return config


def wants_code(config: Path) -> bool:
    """Whether a config.json names code of its own folder."""
    try:
        return "auto_map" in json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _names_of(model: PreTrainedModel, weight: Tensor) -> list[str]:
    """All names of the input embedding, those of a tied head left out: transformers ties T5's on the empty model even
    where the checkpoint has a head of its own."""
    head = model.get_output_embeddings()
    heads = {name for name, module in model.named_modules() if module is head}
    parameters = model.named_parameters(remove_duplicate=False)
    return [name for name, value in parameters if value is weight and name.rpartition(".")[0] not in heads]


def _scale(module: nn.Module, *, must_know: bool) -> float:
    """The factor that an embedding module applies itself (Gemma's, BART's); 1 for one that a reader of its own knows.

    Raises:
        ModelError: what the module does is not known, and `must_know`.
    """
    for name in ("scalar_embed_scale", "embed_scale"):
        value = getattr(module, name, None)
        if isinstance(value, (int, float)):
            return float(value)
    if must_know and type(module) is not nn.Embedding:
        raise ModelError(
            f"the word embeddings are computed by {type(module).__name__}, which is not a plain table",
            "a plugin with an embedding reader (hook vpgt_embedding_access) can read them",
        )
    return 1.0


def _find(weights: Weights, names: Iterable[str], folder: str | Path, prefix: str) -> str:
    """The checkpoint's key for a tensor that the model calls by one of `names`.

    Checkpoints may lack the head model's prefix (``decoder.embed_tokens.weight``) or have `prefix` in front of it
    (``language_model.``).
    """
    names = list(names)
    for name in names:
        parts = name.split(".")
        spellings = [".".join(parts[i:]) for i in range(len(parts) - 1)]
        for key in (*(prefix + spelling for spelling in spellings), *spellings):
            if key in weights:
                return key
    there = [name for name in weights if "emb" in name or "wte" in name]
    raise ModelError(
        f"{folder} has no word embeddings: none of {', '.join(names)}",
        f"its weights may be incomplete, or named otherwise than the model's class names them; they have "
        f"{', '.join(there[:4]) or 'nothing that is called an embedding'}",
    )
