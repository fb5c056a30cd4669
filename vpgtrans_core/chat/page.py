"""The page: drop a picture, ask, and read the answer while it grows. Every visitor has a conversation of their own."""

from __future__ import annotations

import html
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from vpgtrans_core.chat.chat import Chat
from vpgtrans_core.chat.options import CHAT, CHOICES, changed
from vpgtrans_core.chat.speaker import Speaker
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.llm.adapter import GenerateOptions

VISITORS = 500
"""Conversations that are kept, those that were used last."""
WAITING = 32
"""Questions that may wait in the queue; one is answered at a time."""
STEPS = {"temperature": 0.1}
LONGEST = 1024
"""Upper end of the slider for the longest answer."""
STYLE = """
.gradio-container {max-width: 860px !important; margin: 0 auto !important;}
#talk {border: 1px solid var(--border-color-primary); border-radius: 14px; background: var(--background-fill-primary);}
#talk .placeholder-content {justify-content: center; text-align: center; opacity: 0.7;}
#talk .message img {max-height: 220px; border-radius: 10px;}
#talk .message-row {margin-top: 6px !important; margin-bottom: 6px !important;}
#talk button[aria-label*="hare"], #talk button[title*="hare"] {display: none;}
#head h1 {margin: 0.2em 0 0.1em; font-size: 1.35em;}
#head p {margin: 0; opacity: 0.75;}
#again {max-width: 12em;}
@media (max-width: 640px) {
  .gradio-container {padding: 8px !important;}
  #head h1 {font-size: 1.1em;}
}
"""
EMPTY = "### Drop a picture below and ask about it"

Messages = list[dict[str, Any]]


class Page:
    """The page of one model.

    Args:
        speaker: the model.
        title: the model's name, as its heading.
        examples: files of pictures, each with a question.
        options: how answers are generated at first.
    """

    def __init__(
        self,
        speaker: Speaker,
        title: str,
        examples: Sequence[tuple[Path, str]] = (),
        options: GenerateOptions = CHAT,
    ) -> None:
        self.speaker, self.title, self.examples, self.options = speaker, title, examples, options
        self._visits: OrderedDict[str, Visit] = OrderedDict()

    def build(self) -> gr.Blocks:
        """Lay the page out."""
        llm = type(self.speaker.model.llm.model).__name__
        with gr.Blocks(title=f"{self.title} - vpgt", analytics_enabled=False, fill_height=True) as blocks:
            gr.Markdown(
                f"# {self.title}\n{llm} with a transferred VPG, template `{self.speaker.template.name}`", elem_id="head"
            )
            talk = gr.Chatbot(
                show_label=False, height="46vh", min_height=280, elem_id="talk", placeholder=EMPTY,
                render_markdown=False, buttons=[], feedback_options=None, layout="bubble",
            )  # fmt: skip
            box = gr.MultimodalTextbox(
                show_label=False, file_types=[".png", ".jpg", ".jpeg", ".webp"], file_count="multiple",
                sources=["upload"], placeholder="Ask about the picture...", elem_id="box", autofocus=True,
            )  # fmt: skip
            if self.examples:
                gr.Examples(
                    [[{"text": question, "files": [str(path)]}] for path, question in self.examples],
                    inputs=[box], label="Examples",
                )  # fmt: skip
            with gr.Accordion("Settings", open=False):
                sliders = [self._slider(choice) for choice in CHOICES]
            again = gr.Button("New conversation", size="sm", elem_id="again")
            box.submit(self.ask, [box, *sliders], [talk, box], api_name="ask", show_progress="minimal")
            box.stop(self.stop, queue=False, api_visibility="private")
            again.click(self.reset, outputs=[talk, box], queue=False, api_name="reset")
            talk.clear(self.reset, outputs=[talk, box], queue=False, api_visibility="private")
            blocks.unload(self.forget)
        blocks.queue(default_concurrency_limit=1, max_size=WAITING, api_open=False)
        return blocks

    def _slider(self, choice: Any) -> gr.Slider:
        step = 1 if choice.whole else STEPS[choice.name]
        return gr.Slider(
            choice.low, min(choice.high, LONGEST), value=getattr(self.options, choice.field), step=step,
            label=choice.name, info=choice.help,
        )  # fmt: skip

    def ask(
        self, request: gr.Request, said: Mapping[str, Any], *values: float
    ) -> Iterator[tuple[Messages, gr.MultimodalTextbox]]:
        """Answer one question of one visitor; yields the whole conversation, and the box for the next question.

        Args:
            said: the ``text`` of the question, and the ``files`` of its images.
            values: of `CHOICES`, in their order.
        """
        visit = self._visit(request)
        try:
            options = self._options(values)
            visit.chat.pending = []  # of a question that went wrong
            visit.chat.show(said.get("files") or [])
            answers = visit.chat.ask(str(said.get("text") or ""), options)
            shown = [*visit.messages, *_question(said)]
            for answer in answers:
                visit.messages = [*shown, _message("assistant", answer)]
                yield visit.messages, _answering()
        except VpgtError as error:
            raise gr.Error(_spoken(error), title="This did not work", duration=None, print_exception=False) from error
        yield visit.messages, gr.MultimodalTextbox(value=None, interactive=True, submit_btn=True, stop_btn=False)

    def stop(self, request: gr.Request) -> None:
        """End the visitor's answer; what was said so far stays."""
        self._visit(request).chat.stop()

    def reset(self, request: gr.Request) -> tuple[Messages, None]:
        """Begin a new conversation."""
        self.forget(request)
        return [], None

    def forget(self, request: gr.Request) -> None:
        """Drop the conversation of a visitor who has left."""
        if visit := self._visits.pop(str(request.session_hash), None):
            visit.chat.stop()

    def _visit(self, request: gr.Request) -> Visit:
        visit = self._visits.setdefault(str(request.session_hash), Visit(Chat(self.speaker, notify=gr.Info)))
        self._visits.move_to_end(str(request.session_hash))
        while len(self._visits) > VISITORS:
            self._visits.popitem(last=False)
        return visit

    def _options(self, values: Sequence[float]) -> GenerateOptions:
        options = self.options
        for choice, value in zip(CHOICES, values, strict=True):
            options = changed(options, choice.name, value)
        return options


@dataclass
class Visit:
    """One visitor's conversation, and how it is shown."""

    chat: Chat
    messages: Messages = field(default_factory=list)


def _question(said: Mapping[str, Any]) -> Messages:
    """A question as the page shows it: its images, then its words."""
    files = [_message("user", {"path": path}) for path in said.get("files") or []]
    return [*files, _message("user", said["text"])]


def _message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _answering() -> gr.MultimodalTextbox:
    """The box while an answer grows: empty, with a button that stops it."""
    return gr.MultimodalTextbox(value=None, interactive=False, submit_btn=False, stop_btn=True)


def _spoken(error: VpgtError) -> str:
    """An error as text of the page; where files lie on this machine is nobody's business."""
    text = f"{error.message}\n{error.hint}" if error.hint else error.message
    for folder in {str(Path(word).parent) for word in text.split() if word.startswith("/")} - {"/"}:
        text = text.replace(folder + "/", "")
    return html.escape(text)


def theme() -> gr.themes.Base:
    """Colours and fonts; the fonts are the visitor's own, so that the page asks nobody else for any."""
    fonts = ["ui-sans-serif", "system-ui", "sans-serif"]
    return gr.themes.Soft(primary_hue="orange", neutral_hue="stone", font=fonts, font_mono=["ui-monospace"])
