"""What is typed at the prompt of a conversation, and what of it reaches the model."""

from collections.abc import Callable

import pytest

from node.cli.repl import MORE, PROMPT, read_text
from node.cli.run import MAX_PROMPT_BYTES, require_prompt
from node.errors import UsageInvalid


def typing(*lines: str) -> Callable[[str], str]:
    waiting = iter(lines)
    prompts = iter([PROMPT, *[MORE] * (len(lines) - 1)])

    def read_line(prompt: str) -> str:
        assert prompt == next(prompts)
        return next(waiting)

    return read_line


@pytest.mark.parametrize(
    ("lines", "text", "as_it_stands"),
    [
        (["Hello!"], "Hello!", False),
        (["  two spaces, and a tab\t "], "  two spaces, and a tab\t ", False),
        (["/bye"], "/bye", False),
        (["/usr/bin is what?"], "/usr/bin is what?", False),
        (['say """ three quotes """'], 'say """ three quotes """', False),
        (['"""one line"""'], "one line", True),
        (['"""', "first", "  second ", "", '"""'], "first\n  second \n", True),
        (['"""first', 'second"""'], "first\nsecond", True),
        (['"""', "/bye", '"""'], "/bye", True),
        (['/set system """You are', 'kind."""'], "/set system You are\nkind.", False),
        ([""], "", False),
    ],
)
def test_what_is_typed_is_not_altered(lines: list[str], text: str, as_it_stands: bool) -> None:
    assert read_text(typing(*lines)) == (text, as_it_stands)


def test_bytes_that_are_no_text_are_refused_in_words() -> None:
    assert require_prompt("Grüße 🦊") == "Grüße 🦊"
    with pytest.raises(UsageInvalid, match="not UTF-8"):
        require_prompt(b"caf\xe9".decode(errors="surrogateescape"))


def test_what_no_chat_could_keep_is_refused_before_the_node_is_asked() -> None:
    longest = "é" * (MAX_PROMPT_BYTES // 2)
    assert require_prompt(longest) == longest
    with pytest.raises(UsageInvalid, match="more than 262144 bytes"):
        require_prompt(longest + "!")
