"""What was read of prompts is read once: caches for a new prompt begin with what an earlier one left.

Pages in memory go, the longest unused first, when they take more than their share; with a disk they come back from
there, also in the worker's next life. All of it belongs to the thread that owns MLX.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from node.models.engine.prefix_disk import PrefixDisk
from node.models.engine.prefix_rows import RowPlan, cut, held_tokens, join, restore, snapshot
from node.models.engine.prefix_shelf import Shelf
from node.models.engine.prefix_tree import PAGE_BYTES, Held, Page, State, Walk, walk
from protocol.prefix_file import PAGE_TOKENS, TOKEN_BYTES, pack_tokens

# Fewer tokens are read faster than they are looked up and put into place.
MIN_TOKENS: Final = 16
# One part in so many is for prefixes: of the memory for contexts, else of the machine's, and then no more than this.
MEMORY_SHARE: Final = 4
MACHINE_SHARE: Final = 16
MAX_UNASKED_BYTES: Final = 2 << 30


class KeptPrefixes:
    """Prefixes of prompts, per adapter. `new_caches` makes the empty caches of one row.

    `shape` tells this engine from others whose arrays are different: type of the numbers, bits, versions.
    """

    def __init__(
        self, new_caches: Callable[[], list[Any]], shape: str, max_bytes: int, disk: PrefixDisk | None = None
    ) -> None:
        """Hold at most `max_bytes` in memory, and on the disk what `disk` allows; waits until it is looked through."""
        self._new_caches = new_caches
        self._plan = RowPlan.of(new_caches())
        self._shelf = Shelf(shape, max_bytes, disk)
        if self._plan is not None:
            self._shelf.attach(self._plan)
        self.hits = 0
        self.misses = 0

    @property
    def nbytes(self) -> int:
        """What is held in memory."""
        return self._shelf.nbytes

    @property
    def exact(self) -> bool:
        """Whether a row can begin only where caches were kept, because they cannot be cut, or not always."""
        return self._plan is not None and bool(self._plan.in_states)

    def take(self, adapter: str, tokens: Sequence[int]) -> tuple[list[Any], int] | None:
        """Give caches for one row that may be written, with the first n of `tokens` read, and n <= len(tokens) - 1."""
        self._shelf.set_quiet(False)
        if self._plan is not None and len(tokens) > MIN_TOKENS:
            packed = pack_tokens(tokens)
            # A file that turns out to be damaged goes, and what is left is looked at anew.
            while (best := self._best(walk(self._shelf.root(adapter), packed), len(tokens) - 1)) is not None:
                way, count, state = best
                caches = self._caches(way, count, state, len(tokens))
                if caches is not None:
                    self.hits += 1
                    return caches, count
        self.misses += 1
        return None

    def keep(self, adapter: str, tokens: Sequence[int], caches: list[Any]) -> None:
        """Take what the caches of one row hold of `tokens`: all that they read, or its beginning where they can be cut.

        The caches may be written on: what is kept is a copy.
        """
        self._shelf.set_quiet(False)
        plan = self._plan
        if plan is None or len(tokens) < MIN_TOKENS:
            return
        count = held_tokens(caches, plan) if plan.in_pages else len(tokens)
        if count is None or count < len(tokens):
            return
        uncut = plan.is_uncut(count)
        if count > len(tokens) and (plan.whole or not uncut):
            return
        path = self._keep_pages(plan, self._shelf.root(adapter), pack_tokens(tokens), caches, uncut)
        if plan.whole or not uncut:
            self._keep_state(plan, path, len(tokens), caches)
        self._shelf.touch(path)
        self._shelf.write_some()

    def keep_prompt(self, adapter: str, tokens: Sequence[int], caches: list[Any]) -> None:
        """Take what can be cut out of the caches of one row that hold `tokens`; the row goes on.

        Nothing is taken where only a state would serve: the end of the answer is a better place for one.
        """
        plan = self._plan
        if plan is not None and not plan.whole and plan.is_uncut(len(tokens)):
            self.keep(adapter, tokens, caches)

    def branch(self, adapter: str, tokens: Sequence[int]) -> int:
        """Return after how many of `tokens` the caches should be kept while the rest is read, 0 for nowhere.

        That is where an earlier prompt went another way, for models whose caches cannot be cut there afterwards.
        """
        plan = self._plan
        if plan is None or not plan.in_states:
            return 0
        way = walk(self._shelf.root(adapter), pack_tokens(tokens))
        count = min(way.count, len(tokens) - 1)
        best = self._best(way, count)
        return count if count - (best[1] if best is not None else 0) >= MIN_TOKENS else 0

    def idle(self) -> None:
        """Nobody is being answered: write to disk what is not there yet."""
        self._shelf.write_out()

    def limit(self, max_bytes: int) -> None:
        """Hold at most so many bytes in memory from now on."""
        self._shelf.limit(max_bytes)

    def close(self) -> None:
        """Write what is not on the disk yet, and wait for it."""
        self._shelf.close()

    def _best(self, way: Walk, at_most: int) -> tuple[Walk, int, State | None] | None:
        """Return the farthest place from which a row can go on, with the state that it needs there."""
        plan = self._plan
        assert plan is not None
        place, state = next(way.states(at_most), (0, None))
        if not plan.whole:
            count = min(way.count, at_most)
            if plan.windows:
                cut_at = next((index for index, page in enumerate(way.pages) if not page.whole), len(way.pages))
                count = min(count, cut_at * PAGE_TOKENS, plan.window - 1)
            if count >= place:
                place, state = count, None
        return (way, place, state) if place >= MIN_TOKENS else None

    def _caches(self, way: Walk, count: int, state: State | None, room: int) -> list[Any] | None:
        plan = self._plan
        assert plan is not None
        pages = way.pages[: -(-count // PAGE_TOKENS)]
        path: list[Held] = [*pages, *([state] if state is not None else [])]
        if not self._shelf.fetch(path, plan):
            return None
        runs = [page.run for page in pages if page.run is not None]
        held = state.held if state is not None else None
        self._shelf.touch(path)
        caches = join(self._new_caches, plan.in_pages if held is None else plan.paged, runs, count, room)
        if held is not None:
            restore(caches, plan.in_states, held)
        return caches

    def _keep_pages(self, plan: RowPlan, root: Page, packed: bytes, caches: list[Any], uncut: bool) -> list[Held]:
        places = plan.in_pages if uncut else plan.paged
        path: list[Held] = []
        parent = root
        for position in range(0, len(packed), PAGE_BYTES):
            chunk = packed[position : position + PAGE_BYTES]
            start, end = position // TOKEN_BYTES, (position + len(chunk)) // TOKEN_BYTES
            page, alike = parent.nearest(chunk)
            if page is None or alike < end - start:
                page = Page.below(parent, self._shelf.name("page", parent, chunk), chunk, whole=uncut)
                self._shelf.hold_page(page, cut(caches, places, start, end))
            elif not page.in_memory and page.tokens == chunk and page.whole == uncut:
                self._shelf.hold_page(page, cut(caches, places, start, end))
            path.append(page)
            parent = page
        return path

    def _keep_state(self, plan: RowPlan, path: list[Held], count: int, caches: list[Any]) -> None:
        page = path[-1]
        parent = page.parent
        assert parent is not None
        tokens = page.tokens[: (count - page.start) * TOKEN_BYTES]
        state = parent.states.get(tokens)
        if state is None:
            state = State.below(parent, self._shelf.name("state", parent, tokens), tokens)
        if not state.in_memory:
            self._shelf.hold_state(state, snapshot(caches, plan.in_states))
        path.append(state)


def prefix_share(memory_bytes: int, machine_bytes: int) -> int:
    """Return what prefixes may take of the `memory_bytes` for contexts; 0 stands for what suits the machine."""
    return memory_bytes // MEMORY_SHARE if memory_bytes else min(machine_bytes // MACHINE_SHARE, MAX_UNASKED_BYTES)
