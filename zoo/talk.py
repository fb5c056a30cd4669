"""Talk with a transferred miniature: it is tuned on conversations, then asked about new pictures.

``python -m zoo.talk RUN_FOLDER --out DIR`` writes the tuned model to ``DIR/talk``, prints what it answers in
conversations, and draws them as ``DIR/talk.png``. It is the end of ``make demo-mini``.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vpgtrans_core.chat.chat import Chat
from vpgtrans_core.chat.options import CHAT
from vpgtrans_core.chat.speaker import Speaker
from vpgtrans_core.miniature.data import Item, items
from vpgtrans_core.miniature.instructions import Exchange, dialogues, save
from vpgtrans_core.miniature.listing import IMAGES
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.pipeline import tune
from vpgtrans_core.settings import Settings

STEPS = 80
PICTURES = 20
SHOWN = 3
SHORT = dataclasses.replace(CHAT, max_new_tokens=8)


@dataclass(frozen=True)
class Said:
    """A question, what the model answered, and what would have been right."""

    asked: Exchange
    answer: str

    @property
    def right(self) -> bool:
        return self.answer == self.asked.answer


def tuned(run: Path, out: Path, steps: int = STEPS) -> Path:
    """The model in `run`, tuned on conversations about the pictures that it was trained on."""
    options = {"steps": steps, "batch_size": 240, "lr": 1e-3, "min_lr": 1e-4, "lr_warmup_steps": 5, "val_images": 50}
    with tempfile.TemporaryDirectory() as folder:
        data = save(items("train", IMAGES), Path(folder))
        tune(str(run), data=(str(data),), out=str(out), device="cpu", workers=0, overwrite=True, **options)
    return out


def talk(speaker: Speaker, item: Item, asked: Sequence[Exchange]) -> list[Said]:
    """One conversation about one picture; every question is asked after the model's own answers."""
    chat = Chat(speaker)
    chat.show([item.image])
    return [Said(one, list(chat.ask(one.question, SHORT))[-1]) for one in asked]


def as_text(number: int, said: Sequence[Said]) -> str:
    """A conversation as lines; wrong answers are marked."""
    lines = [f"picture {number}"]
    for one in said:
        wrong = "" if one.right else f"   (wrong: {one.asked.answer})"
        lines += [f"  you> {one.asked.question}", f"  {one.answer}{wrong}"]
    return "\n".join(lines)


def draw(pictures: Sequence[Item], talks: Sequence[Sequence[Said]], path: Path) -> None:
    """Draw pictures with what was said about them; right answers are green."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.3 * len(talks)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(talks), 2, width_ratios=[1, 3], squeeze=False)
    for row, item, said in zip(grid, pictures, talks, strict=True):
        row[0].imshow(item.image)
        for axes in row:
            axes.axis("off")
        row[1].set_ylim(len(said), 0)
        for line, one in enumerate(said):
            row[1].text(0, line + 0.5, one.asked.question, va="center", fontsize=10, color="dimgray")
            colour = "green" if one.right else "firebrick"
            row[1].text(0.55, line + 0.5, one.answer, va="center", fontsize=10, color=colour)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a finished miniature transfer")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tuned model and the picture")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    given = parser.parse_args()
    print("tuning it on conversations", flush=True)
    folder = tuned(given.run, given.out / "talk", given.steps)
    speaker = Speaker.load(str(folder), Settings(device="cpu"), default_registry())
    pictures = items("held", given.pictures)
    talks = [talk(speaker, *one) for one in zip(pictures, dialogues(pictures, seed=1), strict=True)]
    for number, said in enumerate(talks[:SHOWN], start=1):
        print(f"\n{as_text(number, said)}")
    answers = [one.right for said in talks for one in said]
    print(f"\n{sum(answers)} of {len(answers)} answers about {len(pictures)} new pictures are right")
    draw(pictures[:SHOWN], talks[:SHOWN], given.out / "talk.png")
    print(f"the conversations above, drawn: {given.out / 'talk.png'}")
    print(f"go on with it: vpgt chat {folder} docs/heart.png")


if __name__ == "__main__":
    main()
