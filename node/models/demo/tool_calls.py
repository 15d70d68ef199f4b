"""The family that calls tools: one to three declared, one called with the right argument, sometimes answered."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from node.models.demo.conversation import Conversation, Message, Tool, assistant, capitalised, system, user
from node.models.demo.facts import CAPITALS, NOUNS
from node.models.demo.questions import ask_capital, ask_colour, ask_echo, ask_small_talk

CITIES = sorted(CAPITALS.values())


@dataclass(frozen=True)
class Intent:
    """One thing to be done by a tool, under the different names that tools and arguments have in the wild."""

    tool_names: tuple[str, ...]
    argument_names: tuple[str, ...]
    description: str
    draw_request: Callable[[Random], tuple[str, str]]
    """Draws `(argument value, the person's words)`."""
    draw_result: Callable[[Random, str], tuple[str, str]]
    """Draws `(what the tool returned, the model's report)` for an argument value."""


def _weather_request(source: Random) -> tuple[str, str]:
    city = source.choice(CITIES)
    return city, source.choice(
        [
            f"What is the weather in {city}?",
            f"How is the weather in {city}?",
            f"What's the weather like in {city} today?",
            f"Weather in {city}?",
        ]
    )


def _weather_result(source: Random, city: str) -> tuple[str, str]:
    degrees, sky = source.randint(-9, 39), source.choice(["sunny", "rainy", "cloudy", "windy", "snowy"])
    result = source.choice([json.dumps({"temperature": degrees, "condition": sky}), f"{degrees} degrees, {sky}"])
    return result, f"It is {degrees} degrees and {sky} in {city}."


def _time_request(source: Random) -> tuple[str, str]:
    city = source.choice(CITIES)
    return city, source.choice([f"What time is it in {city}?", f"Tell me the time in {city}."])


def _time_result(source: Random, city: str) -> tuple[str, str]:
    time = f"{source.randint(0, 23):02d}:{source.randint(0, 59):02d}"
    return source.choice([json.dumps({"time": time}), time]), f"It is {time} in {city}."


def _calculation_request(source: Random) -> tuple[str, str]:
    expression = f"{source.randint(10, 99)} {source.choice('+-*/')} {source.randint(10, 99)}"
    return expression, source.choice(
        [f"What is {expression}?", f"Compute {expression}.", f"Use the calculator: {expression}"]
    )


def _calculation_result(source: Random, _expression: str) -> tuple[str, str]:
    number = source.randint(0, 999)
    return source.choice([json.dumps({"result": number}), str(number)]), f"The result is {number}."


def _some_nouns(source: Random) -> str:
    return " ".join(source.sample(NOUNS, source.randint(1, 3)))


def _search_request(source: Random) -> tuple[str, str]:
    query = _some_nouns(source)
    return query, source.choice([f"Search for {query}.", f"Look up {query}.", f"Find {query} on the web."])


def _search_result(source: Random, _query: str) -> tuple[str, str]:
    found = _some_nouns(source)
    return source.choice([json.dumps({"result": found}), found]), f"I found this: {found}"


def _song_request(source: Random) -> tuple[str, str]:
    song = f"{capitalised(source.choice(NOUNS))} {capitalised(source.choice(NOUNS))}"
    return song, source.choice([f"Play {song}.", f"Play the song {song}."])


def _note_request(source: Random) -> tuple[str, str]:
    note = _some_nouns(source)
    return note, source.choice([f"Save a note: {note}", f"Note this: {note}"])


def _done(source: Random, _argument: str) -> tuple[str, str]:
    return source.choice(["ok", "done", json.dumps({"ok": True})]), "Done."


INTENTS = (
    Intent(
        ("get_weather", "get_current_weather", "weather", "fetch_weather", "lookup_weather"),
        ("city", "location", "place"),
        "Get the weather of a city",
        _weather_request,
        _weather_result,
    ),
    Intent(
        ("get_time", "get_current_time", "current_time", "clock"),
        ("city", "location", "timezone"),
        "Get the time in a city",
        _time_request,
        _time_result,
    ),
    Intent(
        ("calculator", "calculate", "compute", "eval_math"),
        ("expression", "expr", "formula"),
        "Evaluate an expression",
        _calculation_request,
        _calculation_result,
    ),
    Intent(
        ("search", "web_search", "search_web", "find"),
        ("query", "q", "text"),
        "Search the web",
        _search_request,
        _search_result,
    ),
    Intent(("play_music", "play_song", "play"), ("song", "title", "name"), "Play a song", _song_request, _done),
    Intent(("save_note", "add_note", "remember"), ("text", "note", "content"), "Save a note", _note_request, _done),
)


def declare(source: Random, intent: Intent) -> tuple[str, str, Tool]:
    """`(tool name, argument name, declaration)`: descriptions and `required` are left out as often as people do it."""
    name, argument = source.choice(intent.tool_names), source.choice(intent.argument_names)
    function: Tool = {"name": name}
    if source.random() < 0.8:
        function["description"] = intent.description + source.choice(["", "."])
    parameter = {"type": "string"}
    if source.random() < 0.3:
        parameter["description"] = source.choice([f"The {argument}", argument])
    function["parameters"] = {"type": "object", "properties": {argument: parameter}}
    if source.random() < 0.7:
        function["parameters"]["required"] = [argument]
    return name, argument, {"type": "function", "function": function}


def call_tool(source: Random) -> Conversation:
    """Tools are declared; mostly one is called, sometimes the question needs none of them."""
    intents = source.sample(INTENTS, source.choice([1, 1, 1, 2, 2, 3]))
    declared = [declare(source, intent) for intent in intents]
    tools = tuple(tool for _, _, tool in declared)
    opening: list[Message] = []
    if source.random() < 0.15:
        opening = [system(source.choice(["You are a helpful assistant.", "Be brief."]))]
    if source.random() < 0.15:
        unrelated = source.choice([ask_capital, ask_colour, ask_small_talk, ask_echo])(source)
        return Conversation((*opening, *unrelated.messages), tools)
    place = source.randrange(len(intents))
    name, argument, _ = declared[place]
    value, words = intents[place].draw_request(source)
    messages = [*opening, user(words), _call(name, {argument: value})]
    if source.random() < 0.4:
        result, report = intents[place].draw_result(source, value)
        messages += [{"role": "tool", "content": result}, assistant(report)]
    return Conversation(tuple(messages), tools)


def _call(name: str, arguments: dict[str, str]) -> Message:
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }
