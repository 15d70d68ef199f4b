"""One conversation with a model: its lines, and the /commands that change how it goes on."""

import re
from typing import Any, Final

from node.cli.ask import Manner, ask, figures
from node.cli.client import ControlClient
from node.cli.render import Screen, format_bytes
from node.cli.run import SWITCHES, read_format
from node.errors import UsageInvalid
from protocol.modelfile import Modelfile, format_modelfile, parse_modelfile
from protocol.parameters import PARAMETERS, Value

Facts = dict[str, Any]
HELP: Final = '''\
/set parameter NAME VALUE    temperature, top_k, seed, stop, num_predict, num_ctx, …
/set system TEXT             what the model is told before everything else
/set format json|SCHEMA      answers keep to JSON, or to a JSON schema; /set noformat ends it
/set think [LEVEL]           let the model think; /set nothink ends it
/set verbose | quiet         print the figures of each answer, or stop doing so
/show [WHAT]                 what is set, or: info, modelfile, parameters, system, template, license
/load MODEL                  go on with another model
/save NAME                   keep model, settings and conversation as a model of its own
/clear                       forget the conversation and begin another chat
/bye                         end (Ctrl-D does too); Ctrl-C stops an answer
"""                          begins and ends text of several lines, which is sent as it stands'''
# A path or a division is no command: its first word goes on after the letters.
_COMMAND: Final = re.compile(r"/([a-z?]+)(?:\s+(.*))?", re.DOTALL)


class Conversation:
    """The state of one conversation: its chat, how answers are wanted, and whether it has ended."""

    def __init__(self, screen: Screen, client: ControlClient, manner: Manner, chat: str | None) -> None:
        self._screen = screen
        self._client = client
        self._manner = manner
        self._chat = chat
        self.ended = False

    def take(self, typed: str) -> None:
        """Answer what was typed, or do what a /command says.

        Raises:
            UsageInvalid: a command with what it does not take.
            ControlFailed: the node refused it.
        """
        found = _COMMAND.fullmatch(typed.rstrip())
        if found is None:
            if typed.strip():
                self.answer(typed)
            return
        command, rest = found[1], found[2] or ""
        match command:
            case "bye":
                self.ended = True
            case "help" | "?":
                self._screen.say(HELP)
            case "clear":
                self._chat = None
                self._screen.done("the next line begins another chat")
            case "set":
                self._set(*_words(rest))
            case "show":
                self._show(rest.strip())
            case "load":
                self._load(_needed(rest, "/load MODEL"))
            case "save":
                self._save(_needed(rest, "/save NAME"))
            case _:
                self._screen.warn(f'no command /{command}; /help lists them, and """ around text sends it as it stands')

    def answer(self, prompt: str) -> None:
        """Answer `prompt` as it stands; Ctrl-C stops the answer."""
        try:
            facts = ask(self._client, self._screen, self._manner, prompt, chat=self._chat, started=self._keep_chat)
        except KeyboardInterrupt:
            # Leaving the stream cancelled the work on the node.
            self._screen.say("\n(stopped)")
            return
        if self._manner.verbose:
            self._screen.say(figures(facts))

    def _keep_chat(self, started: Facts) -> None:
        self._chat = started["chat"]

    def _set(self, what: str, value: str) -> None:
        manner = self._manner
        match what:
            case "parameter":
                name, text = _words(value)
                manner.options[name] = _parameter(name, text)
                told = f"{name} is {manner.options[name]!r}"
            case "system":
                manner.system = value or None
                told = "the system prompt is set" if value else "the system prompt is the model's own"
            case "format":
                manner.format = read_format(value.strip())
                told = "answers keep to the format"
            case "noformat":
                manner.format, told = None, "answers are free text"
            case "think":
                degree = value.strip() or "true"
                manner.think = SWITCHES.get(degree, degree)
                told = "the model thinks" if manner.think else "the model does not think"
            case "nothink":
                manner.think, told = False, "the model does not think"
            case "verbose" | "quiet":
                manner.verbose = what == "verbose"
                told = "figures are printed" if manner.verbose else "no figures are printed"
            case _:
                raise UsageInvalid(f"/set does not know {what!r}", "see: /help")
        self._screen.done(told)

    def _show(self, what: str) -> None:
        if not what:
            self._show_settings()
            return
        facts = self._client.get("/v1/show", name=self._manner.model)
        recipe = parse_modelfile(facts["modelfile"])
        match what:
            case "info":
                text = f"{facts['name']}\n{facts['manifest'][:12]}, {format_bytes(facts['size_bytes'])}"
            case "modelfile":
                text = facts["modelfile"].rstrip()
            case "parameters":
                text = "\n".join(f"{name} {value}" for name, value in recipe.parameters)
            case "system":
                text = self._manner.system or recipe.system or ""
            case "template":
                text = recipe.template or ""
            case "license":
                text = "\n\n".join(recipe.licenses)
            case _:
                raise UsageInvalid(f"/show does not know {what!r}", "see: /help")
        self._screen.say(text or f"({self._manner.model} says nothing about that)")

    def _show_settings(self) -> None:
        manner = self._manner
        self._screen.say(f"model      {manner.model}")
        for name, value in sorted(manner.options.items()):
            self._screen.say(f"parameter  {name} {value}")
        if manner.system is not None:
            self._screen.say(f"system     {manner.system}")
        if manner.format is not None:
            self._screen.say(f"format     {manner.format}")
        if manner.think is not None:
            self._screen.say(f"think      {manner.think}")

    def _load(self, model: str) -> None:
        facts = self._client.get("/v1/show", name=model)
        self._manner.model = facts["name"]
        self._screen.done(f"the next answer is {facts['name']}'s; the conversation goes on")

    def _save(self, name: str) -> None:
        lines = self._client.get("/v1/chat", id=self._chat)["lines"] if self._chat else []
        recipe = Modelfile(
            base=self._manner.model,
            parameters=tuple(_pairs(self._manner.options)),
            system=self._manner.system,
            messages=tuple((line["role"], line["content"]) for line in lines),
        )
        body = {"recipe": format_modelfile(recipe), "directory": "/", "name": name}
        with self._client.stream("POST", "/v1/create", **body) as events:
            *_, facts = events
        self._screen.done(f"saved as {facts['name']}", "go on from here another day", f"tilenode run {facts['name']}")


def _words(text: str) -> tuple[str, str]:
    """Return the first word and what follows it, as it was typed."""
    word, _, rest = text.strip().partition(" ")
    return word, rest.strip() if "\n" not in rest else rest


def _needed(text: str, usage: str) -> str:
    if not text.strip():
        raise UsageInvalid("something is missing", f"write: {usage}")
    return text.strip()


def _parameter(name: str, text: str) -> object:
    parameter = PARAMETERS.get(name)
    if parameter is None:
        raise UsageInvalid(f"no parameter {name!r}", f"there are: {', '.join(PARAMETERS)}")
    value: object = [text] if parameter.takes(text) else parameter.read(text)
    if value is None:
        problem = f"{name}: got {text!r}, expected {parameter.expected}"
        raise UsageInvalid(problem, f"write: /set parameter {name} VALUE")
    return value


def _pairs(options: Facts) -> list[tuple[str, Value]]:
    return [(name, one) for name, value in options.items() for one in (value if isinstance(value, list) else [value])]
