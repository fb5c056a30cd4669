"""VPGs whose folder is a class of transformers with a vision model and a projector beside a bare LLM and a plain head.

Such a family is data, a `WholeClass` and the names of its tensors, and its maths: `__init__`, `features`, `prompts`,
and how pictures become pixels. What it reads is here, what it writes in `vpgtrans_core.vpg.bare_folder`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import read_json
from vpgtrans_core.vpg.adapter import VPG, Preprocessing
from vpgtrans_core.vpg.whole import why_other_logits
from vpgtrans_core.vpg.writing import write_part
from vpgtrans_core.weights import Weights, check_finite, load_strict

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from vpgtrans_core.llm.adapter import LLM

_LOADING = """from transformers import AutoProcessor, CLASS
from PIL import Image

processor = AutoProcessor.from_pretrained("{folder}")
model = CLASS.from_pretrained("{folder}")
prompt = processor.apply_chat_template([dict(role="user", content=[dict(type="image")])], add_generation_prompt=True)
inputs = processor(images=Image.open("picture.png"), text=prompt, add_special_tokens=False, return_tensors="pt")
said = model.generate(**inputs)[:, inputs["input_ids"].shape[1]:]
print(processor.batch_decode(said, skip_special_tokens=True)[0].strip())
"""


def loading_code(model: str, *, torchvision: bool = False) -> str:
    """`VPG.loading_code` of a class of transformers with this name; `torchvision` says that its processor needs it."""
    return ("# needs torchvision\n" if torchvision else "") + _LOADING.replace("CLASS", model)


def image_processor_values(folder: str | Path) -> tuple[Path | None, dict[str, Any]]:
    """The file that describes a folder's image processor, and what it says; nothing where there is none."""
    paths = (Path(folder) / name for name in ("preprocessor_config.json", "processor_config.json"))
    path = next((path for path in paths if path.is_file()), None)
    values: dict[str, Any] = read_json(path) if path else {}
    return path, values.get("image_processor", values)


class WholeClass(NamedTuple):
    """A class of transformers that holds a vision model, a projector and a bare LLM under a plain head.

    Attributes:
        config, model: the classes.
        trunk, head: what the names of the LLM's body and head begin with in its folders.
        body: the LLM's body among the model's modules.
        tiny_vision: the config of a tiny vision model, beside which LLMs are tried.
        image_token: what its config calls the id of the image's token.
    """

    config: Any
    model: Any
    trunk: str
    head: str
    body: str
    tiny_vision: Mapping[str, Any]
    image_token: str = "image_token_id"

    def around(self, text: PreTrainedConfig) -> tuple[nn.Module, nn.Module, nn.Module]:
        """A tiny model of the class with this LLM inside; its LLM's body and its head."""
        config = self.config(
            vision_config=dict(self.tiny_vision),
            text_config=text.to_dict(),
            tie_word_embeddings=False,
            **{self.image_token: text.vocab_size - 1},
        )
        config._attn_implementation = "eager"
        model: Any = self.model(config)
        return model, model.get_submodule(self.body), model.lm_head


class BareVPG(VPG):
    """A VPG beside a bare LLM. Parameters carry the names of the family's files.

    Args:
        config: the contents of a config.json, the family's or that of a folder of ours.
        preprocessing: how images become pixels; by default what no folder says otherwise.

    Attributes:
        whole: the family's class in transformers.
        what: what messages call the family.
        part: the ``model_type`` of folders with VPG and projector alone.
        tower, trained_names, projector_name: what the names of the ViT's tensors begin with, of those that stage 2
            trains, and of the projector's. What is trained may be a part of the ViT.
        text_type: the ``model_type`` of an LLM that a config does not name.
        defaults: fields of the family's config that say how the VPG computes, with what they are when left out.
        settings: the same fields of this VPG.
        vision: the ViT's config.
        tokens: the family's own tokens around a picture or its tiles, see `vpgtrans_core.vpg.separators`.
    """

    whole: ClassVar[WholeClass]
    what: ClassVar[str]
    part: ClassVar[str]
    tower: ClassVar[str]
    trained_names: ClassVar[tuple[str, ...]]
    projector_name: ClassVar[str]
    text_type: ClassVar[str]
    defaults: ClassVar[dict[str, Any]] = {}

    vision: PreTrainedConfig
    tokens: tuple[str, ...] = ()

    def __init__(self, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        self.settings = {name: config.get(name, value) for name, value in self.defaults.items()}

    @abstractmethod
    def preprocessing_of(self, folder: Path) -> Preprocessing:
        """How images become pixels as a folder says it.

        Raises:
            ModelError: it makes other pictures than this VPG reads.
        """

    @abstractmethod
    def image_processor(self) -> Any:
        """transformers' processor that makes the pixels which vpgt makes."""

    @abstractmethod
    def save_processor(self, folder: Path, tokenizer: Any, chat_template: str) -> None:
        """Write the processor of a whole folder, tokenizer included."""

    @classmethod
    def from_config(cls, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> Self:
        """A VPG with random weights.

        Raises:
            ModelError: the config describes no VPG of this family.
        """
        try:
            return cls(config, preprocessing).requires_grad_(False).eval()
        except ModelError:
            raise
        except Exception as error:  # transformers checks its configs with many kinds of error
            raise ModelError(f"config.json describes no {cls.what}: {type(error).__name__}: {error}") from error

    @classmethod
    def load(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Self:
        folder = Path(folder)
        vpg = cls.from_config(cls.config_of(folder))
        vpg.preprocessing = vpg.preprocessing_of(folder)

        def precision(name: str) -> torch.dtype:
            frozen = name.startswith(cls.tower) and not name.startswith(cls.trained_names)
            return dtype if frozen else torch.float32

        load_strict(vpg, vpg.read_tensors(folder, Weights(folder)), folder, dtype=precision, device=device)
        return vpg.eval()

    @classmethod
    def config_of(cls, folder: Path) -> dict[str, Any]:
        """What a folder says of the VPG's sizes."""
        return read_json(folder / "config.json")

    def read_tensors(self, folder: Path, weights: Weights) -> dict[str, Tensor]:
        """The tensors of a folder that are the VPG's."""
        own = (self.tower, *self.trained_names)
        return {name: weights.read(name) for name in weights if name.startswith(own)}

    @classmethod
    def load_projector(cls, folder: str | Path) -> tuple[Tensor, Tensor] | None:
        weights, name = Weights(folder), cls.projector_name + "weight"
        if name not in weights:
            return None
        weight = weights.read(name).float()
        check_finite({name: weight}, folder)
        return weight, torch.zeros(len(weight))

    @classmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        with torch.device("meta"):
            vpg = cls.from_config(config)
        return vpg.facts(vpg.preprocessing.size)

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.named_parameters() if name.startswith(self.trained_names))

    @classmethod
    def why_not_whole(cls, llm: PreTrainedConfig) -> str | None:
        return why_other_logits(llm, cls.whole.around)

    def config_values(self) -> dict[str, Any]:
        """What config.json says of the VPG."""
        return {"vision_config": self.vision.to_dict(), **self.settings}

    def whole_values(self) -> dict[str, Any]:
        """What the whole folder's config says beside the LLM's."""
        return self.config_values()

    def whole_tensors(self, projector: nn.Linear, dtype: torch.dtype) -> dict[str, Tensor]:
        """VPG and projector under the names of the family's files: what was trained in fp32, the rest in `dtype`."""
        state = self.state_dict().items()
        own = {name: value.float() if name.startswith(self.trained_names) else value.to(dtype) for name, value in state}
        return own | {self.projector_name + name: value.float() for name, value in projector.state_dict().items()}

    def token_rows(self, projector: nn.Linear) -> Tensor | None:
        """The embeddings ``[S, D_llm]`` of `tokens`; None without any."""
        return None

    def check_room(self, projector: nn.Linear) -> None:
        """Whether the class has room for all outputs.

        Raises:
            ModelError: it has not.
        """

    def save_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        from vpgtrans_core.vpg.bare_folder import BareFolder

        BareFolder(Path(folder), self, projector, llm, llm_reference).save()

    def check_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        from vpgtrans_core.vpg.bare_folder import BareFolder

        BareFolder(Path(folder), self, projector, llm, llm_reference).check()

    def save_part(self, folder: Path, projector: nn.Linear | None, *, references: dict[str, Any]) -> None:
        config = {"model_type": self.part, **self.config_values()}
        write_part(Path(folder), self, projector, self.projector_name, references, config)
        self.image_processor().save_pretrained(folder)
