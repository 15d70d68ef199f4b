"""The view of a chat: the vectors, in every order of arrival."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from protocol.chats import ChatView, chat_view
from protocol.feed import receive_entry

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0013-chats-and-sync" / "views.json"
CASES = [pytest.param(case, id=case["comment"]) for case in json.loads(VECTORS.read_text())]


def facts(view: ChatView | None) -> dict[str, Any] | None:
    if view is None:
        return None
    return {
        "title": view.title.reveal(),
        "created_ms": view.created_ms,
        "updated_ms": view.updated_ms,
        "messages": [[m.id, m.role, m.content.reveal(), m.model, m.time_ms, m.edited] for m in view.messages],
    }


@pytest.mark.parametrize("case", CASES)
def test_vectors_of_views(case: dict[str, Any]) -> None:
    entries = [receive_entry(bytes.fromhex(entry)) for entry in case["input"]["entries"]]
    shuffle = random.Random(7).shuffle
    for _ in range(20):
        shuffle(entries)
        assert facts(chat_view(case["input"]["chat"], entries)) == case["output"]
