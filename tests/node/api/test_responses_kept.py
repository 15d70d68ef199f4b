"""The conversation that a request follows on, as far as it does not need a database."""

from typing import Any

from node.api.responses_kept import KeepsNothing, conversation_of

SAID = {"id": "msg_r_0", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi!"}]}


class OneBefore(KeepsNothing):
    """Keeps the response `resp_r`, and one that referred to an item of it."""

    async def find(self, name: str) -> Any:
        return ({"output": [SAID]}, []) if name == "resp_r" else None

    async def conversation(self, name: str) -> Any:
        return [{"type": "item_reference", "id": "msg_r_0"}]


async def test_references_of_earlier_requests_are_followed_too() -> None:
    assert await conversation_of(OneBefore(), "resp_later", []) == [SAID]
