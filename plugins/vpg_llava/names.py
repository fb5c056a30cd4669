"""What LLaVA's folders call their parts. Loads nothing."""

LLAVA, NEXT, ONEVISION = "llava", "llava_next", "llava_onevision"
PART, NEXT_PART, ONEVISION_PART = "vpgt-llava-vpg", "vpgt-llava-next-vpg", "vpgt-llava-onevision-vpg"
"""The ``model_type`` of folders with VPG and projector alone."""
TEXT_TYPE = "llama"
"""The language model of a folder whose config does not name one."""

TOWER = "vision_tower."
TRAINED = "multi_modal_projector.linear_1."
PROJECTOR = "multi_modal_projector.linear_2."
TRUNK = "language_model.model."
HEAD = "language_model.lm_head."
