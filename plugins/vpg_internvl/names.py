"""What InternVL's folders call their parts. Loads nothing."""

INTERNVL = "internvl"
PART = "vpgt-internvl-vpg"
"""The ``model_type`` of a folder with VPG and projector alone."""
TEXT_TYPE = "qwen2"
"""The language model of a folder whose config does not name one."""

TOWER = "vision_tower."
NORM = "multi_modal_projector.layer_norm."
LAYER = "multi_modal_projector.linear_1."
PROJECTOR = "multi_modal_projector.linear_2."
TRUNK = "language_model.model."
HEAD = "language_model.lm_head."
