"""A conversation in the terminal: one line a question, answers shown while they grow."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator

from vpgtrans_core.chat.chat import Chat
from vpgtrans_core.chat.options import CHAT, changed, described
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.llm.adapter import GenerateOptions

PROMPT = "you> "
HELP = """\
/image PATH ...    show an image, or several, with the next question
/set NAME VALUE    change a setting
/settings          show the settings
/reset             begin a new conversation, without images
/help              show this
/quit              end (so does Ctrl-D)
Ctrl-C stops an answer; what was said so far stays in the conversation."""
INTERRUPT = 130


class Terminal:
    """Reads questions and commands line by line, until the end of input or ``/quit``.

    Args:
        chat: the conversation.
        options: how answers are generated at first.
        ask: reads a line, given what to show before it; raises EOFError at the end of input.
    """

    def __init__(self, chat: Chat, options: GenerateOptions = CHAT, ask: Callable[[str], str] = input) -> None:
        self.chat, self.options, self.ask = chat, options, ask
        chat.notify = lambda text: say(f"({text})")
        self.commands: dict[str, Callable[[list[str]], None]] = {
            "image": self._image,
            "set": self._set,
            "settings": lambda _: say(described(self.options)),
            "reset": self._reset,
            "help": lambda _: say(HELP),
        }

    def run(self) -> None:
        """Talk."""
        editable_lines()
        say(f"Ask about the picture; /help shows the commands. Template: {self.chat.speaker.template.name}.")
        for line in self._lines():
            if line in ("/quit", "/exit"):
                return
            try:
                self._do(line)
            except VpgtError as error:
                say(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))

    def _lines(self) -> Iterator[str]:
        while True:
            try:
                line = self.ask(PROMPT).strip()
            except EOFError:
                return say("")
            except KeyboardInterrupt as stop:
                _unless_interrupt(stop)
                say("\n(/quit ends)")
                continue
            if line:
                yield line

    def _do(self, line: str) -> None:
        if not line.startswith("/"):
            return self._question(line)
        name, _, rest = line[1:].partition(" ")
        try:
            words = shlex.split(rest)
        except ValueError:  # a quote that is not closed may belong to a file's name
            words = rest.split()
        if (command := self.commands.get(name)) is None:
            say(f"error: there is no command /{name}\nhint: /help shows all")
        else:
            command(words)

    def _question(self, question: str) -> None:
        shown = ""
        try:
            for answer in self.chat.ask(question, self.options):
                if answer.startswith(shown):
                    say(answer[len(shown) :], end="")
                    shown = answer
            say("" if shown else "(the model said nothing)")
        except KeyboardInterrupt as stop:
            _unless_interrupt(stop)
            say("\n(stopped)")
        finally:
            self.chat.stop()

    def _image(self, paths: list[str]) -> None:
        if not paths:
            say("error: /image needs a file\nhint: /image PATH; a path with spaces in quotes")
            return
        pictures = self.chat.show(paths)
        say(f"({', '.join(picture.name for picture in pictures)}: shown with the next question)")

    def _set(self, words: list[str]) -> None:
        if len(words) != 2:
            say("error: /set needs a name and a value\nhint: /set temperature 0.7; /settings shows all")
            return
        self.options = changed(self.options, words[0], words[1])
        say(described(self.options))

    def _reset(self, _: list[str]) -> None:
        self.chat.reset()
        say("(a new conversation; /image shows a picture)")


def editable_lines() -> None:
    """Let arrow keys and the history work in `input`, where Python has readline."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


def _unless_interrupt(stop: KeyboardInterrupt) -> None:
    """Ctrl-C ends an answer or a line; any other signal ends the program."""
    if getattr(stop, "exit_code", INTERRUPT) != INTERRUPT:
        raise stop
