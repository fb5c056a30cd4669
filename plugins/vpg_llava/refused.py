"""VL-LLMs that cannot be carried over with a projector alone, and why."""

_ROPE = "its positions are counted along time, height and width, which a plain language model does not do"
_DEEP = "its image features also enter the first blocks of the language model, not its input alone"
_CROSS = "its images enter through cross-attention inside the language model, not as soft prompts"
_MASK = "its images attend to one another in both directions, which only its own language model does"
_OWN = "its language model exists only inside its own class, with weights that the images switch on"

REFUSED = (
    ("qwen2_vl", _ROPE),
    ("qwen2_vl_text", _ROPE),
    ("qwen2_5_vl", _ROPE),
    ("qwen2_5_vl_text", _ROPE),
    ("qwen3_vl", _DEEP),
    ("qwen3_vl_text", _DEEP),
    ("mllama", _CROSS),
    ("mllama_text_model", _CROSS),
    ("molmo", "its image features and its language model exist only as code in its own folder"),
    ("phi4_multimodal", _OWN),
    ("gemma3", _MASK),
    ("paligemma", _MASK),
)
"""Model types with the reason, for `VPGFamily.refused`."""
