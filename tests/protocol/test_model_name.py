import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ModelNameInvalid
from protocol.model_name import ModelName, format_model_name, parse_model_name

PART = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,5}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("demo", ModelName("local", "library", "demo", "latest")),
        ("Seedling:1B", ModelName("local", "library", "seedling", "1b")),
        ("ann/demo:v2", ModelName("local", "ann", "demo", "v2")),
        ("demo@1.0", ModelName("local", "library", "demo", "latest", "1.0")),
        ("seedling:4b@1.2.0-rc.1", ModelName("local", "library", "seedling", "4b", "1.2.0-rc.1")),
        ("models.example/ann/demo", ModelName("models.example", "ann", "demo", "latest")),
        ("127.0.0.1:5005/ann/demo:v1@2", ModelName("127.0.0.1:5005", "ann", "demo", "v1", "2")),
    ],
)
def test_a_name_has_its_parts_and_its_defaults(text: str, expected: ModelName) -> None:
    assert parse_model_name(text) == expected
    assert parse_model_name(format_model_name(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "a:", "a@", "a:b@", "a/b/c/d", "../a", "a..b", "a/../b", "a:b:c", "a@b@c", "/a", "a/", "a b", "-a"),
        *("h:1/a", "h:0/n/a", "h:70000/n/a", "h:x/n/a", "a" * 81, "a:" + "b" * 81, "a@" + "1" * 81, "a\x00"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ModelNameInvalid):
        parse_model_name(text)


@given(host=PART, port=st.integers(1, 65535) | st.none(), rest=st.tuples(PART, PART, PART), version=PART | st.just(""))
def test_every_name_survives_its_spelling(
    host: str, port: int | None, rest: tuple[str, str, str], version: str
) -> None:
    name = ModelName(host if port is None else f"{host}:{port}", *rest, version)
    assert parse_model_name(format_model_name(name)) == name


def test_a_release_belongs_to_the_tag_that_moves() -> None:
    assert parse_model_name("demo:4b@1.0").moving == parse_model_name("demo:4b")
