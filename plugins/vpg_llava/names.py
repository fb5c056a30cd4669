"""What LLaVA's folders call their parts. Loads nothing."""

LLAVA = "llava"
PART = "vpgt-llava-vpg"
"""The ``model_type`` of a folder with VPG and projector alone."""
HIDDEN = "projector_hidden_size"
"""The field of config.json that says how wide the MLP's hidden layer is. transformers keeps it and ignores it: its
class has the LLM's width there, and units beyond ours are zero."""

TOWER = "vision_tower."
TRAINED = "multi_modal_projector.linear_1."
PROJECTOR = "multi_modal_projector.linear_2."
TRUNK = "language_model.model."
HEAD = "language_model.lm_head."
