"""The responses that were kept, for requests that follow on one, refer to an item of one, or ask for one."""

import json
from collections.abc import Sequence
from typing import Any, Protocol

from node.api.errors import AnswerNotKept
from node.api.json_text import compact
from node.api.responses_items import Item
from node.ports import Clock
from node.threads import Threads
from store.kept_responses import KeptResponse, KeptResponses

Resource = dict[str, Any]


class Kept(Protocol):
    """Where responses are kept."""

    async def keep(self, resource: Resource, items: Sequence[Item]) -> None:
        """Keep a response with the items of its own input."""

    async def find(self, name: str) -> tuple[Resource, list[Item]] | None:
        """Return a response and the items of its own input, None where it is not kept."""

    async def conversation(self, name: str) -> list[Item] | None:
        """Return all items up to the end of the response `name`; None where one of its responses is not kept."""

    async def forget(self, name: str) -> bool:
        """Forget a response; return whether it was kept."""


class KeptInDatabase:
    """Responses kept in the node's encrypted database."""

    def __init__(self, responses: KeptResponses, threads: Threads, clock: Clock) -> None:
        self._responses = responses
        self._threads = threads
        self._clock = clock

    async def keep(self, resource: Resource, items: Sequence[Item]) -> None:
        """Keep a response with the items of its own input."""
        name, previous = resource["id"], resource["previous_response_id"]
        row = KeptResponse(name, previous, compact(list(items)), compact(resource))
        await self._threads.database(self._responses.keep, row, self._clock.now_s())

    async def find(self, name: str) -> tuple[Resource, list[Item]] | None:
        """Return a response and the items of its own input, None where it is not kept."""
        row = await self._threads.database(self._responses.get, name, self._clock.now_s())
        return (json.loads(row.resource_json), json.loads(row.input_json)) if row else None

    async def conversation(self, name: str) -> list[Item] | None:
        """Return all items up to the end of the response `name`; None where one of its responses is not kept."""
        rows = await self._threads.database(self._responses.chain, name, self._clock.now_s())
        items: list[Item] = []
        for row in rows:
            items += json.loads(row.input_json)
            items += json.loads(row.resource_json)["output"]
        return items if rows else None

    async def forget(self, name: str) -> bool:
        """Forget a response; return whether it was kept."""
        return await self._threads.database(self._responses.forget, name)


class KeepsNothing:
    """For an API without a database: no response is kept."""

    async def keep(self, resource: Resource, items: Sequence[Item]) -> None:
        """Do nothing."""

    async def find(self, name: str) -> None:
        """Return None."""

    async def conversation(self, name: str) -> None:
        """Return None."""

    async def forget(self, name: str) -> bool:
        """Return False."""
        return False


async def conversation_of(kept: Kept, previous: str | None, items: Sequence[Item]) -> list[Item]:
    """Return the items of the conversation before `items` and these, references replaced by what they refer to.

    Raises:
        AnswerNotKept: a response that is needed for it is not kept.
    """
    before: list[Item] = []
    if previous is not None:
        found = await kept.conversation(previous)
        if found is None:
            raise AnswerNotKept(previous, "previous_response_id")
        before = found
    return [await _resolved(kept, item) for item in (*before, *items)]


async def _resolved(kept: Kept, item: Item) -> Item:
    if item["type"] != "item_reference":
        return item
    # The id of an item says which response it lies in: KIND_RESPONSE_PLACE.
    _, _, place = str(item["id"]).partition("_")
    response = f"resp_{place.rpartition('_')[0]}"
    found = await kept.find(response)
    for other in found[0]["output"] if found else ():
        if other["id"] == item["id"]:
            referred: Item = other
            return referred
    raise AnswerNotKept(str(item["id"]), "input")
