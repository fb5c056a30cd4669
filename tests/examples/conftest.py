import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES / name) for name in ("llm-granite", "llm-sketch", "vpg-clip-mlp")]
