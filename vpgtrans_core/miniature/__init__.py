"""A drawn world and small models trained for it: the same classes and formats as the real ones, in megabytes.

`world` draws scenes, `language` speaks of them, `data` splits them and `score` reads captions back. `tokenizers`,
`llms` and `vision` train the zoo; ``python -m zoo.build --out DIR`` rebuilds it from nothing.
Importing this package loads no torch.
"""

from pathlib import Path

ZOO = Path(__file__).parent / "zoo"
"""The folder of the models that ship with the toolkit."""
