"""Which tokens were read before: a tree of pages of 128 tokens, shared by all prompts that begin alike.

Only full pages have others below them. A page that another one begins with is replaced by it, so that no page stands
beside one that says the same and more; two prompts that part inside a page have a page each from there on.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import mlx.core as mx

from node.models.engine.prefix_rows import Run, Snapshot
from protocol.prefix_file import PAGE_TOKENS, TOKEN_BYTES, Tensor, Value

PAGE_BYTES: Final = PAGE_TOKENS * TOKEN_BYTES
# What a page or state takes beside its arrays, roughly: in memory, and as the head of a file.
OVERHEAD_BYTES: Final = 2048


@dataclass(eq=False)
class Held(ABC):
    """Something that is kept, in memory, in a file, or in both; `name` is its file's, whether there is one or not.

    `parent` is the page before, `start` how many tokens lie up to there. `stale` are files that go once this one is
    written.
    """

    name: bytes
    parent: "Page | None" = field(repr=False)
    tokens: bytes = field(repr=False)
    adapter: str = field(repr=False)
    start: int
    nbytes: int = 0
    tensors: tuple[Tensor, ...] = field(default=(), repr=False)
    stale: list[bytes] = field(default_factory=list, repr=False)
    in_file: bool = False
    gone: bool = False

    @property
    def count(self) -> int:
        """How many tokens it has."""
        return len(self.tokens) // TOKEN_BYTES

    @property
    def file_bytes(self) -> int:
        """What its file takes, roughly."""
        return sum(tensor.nbytes for tensor in self.tensors) + OVERHEAD_BYTES

    @property
    @abstractmethod
    def in_memory(self) -> bool:
        """Whether its arrays are there to be used at once."""

    @abstractmethod
    def arrays(self) -> list[mx.array]:
        """Return its arrays, one after the other."""

    @abstractmethod
    def forget_arrays(self) -> None:
        """Let go of what is in memory."""

    @abstractmethod
    def behind(self) -> "list[Held]":
        """Return it with all that is of no use without it, the farthest first."""

    @abstractmethod
    def detach(self) -> None:
        """Leave the tree."""


@dataclass(eq=False)
class State(Held):
    """What caches that cannot be cut hold behind `tokens`; the pages up to there are needed as well."""

    held: Snapshot | None = field(default=None, repr=False)
    values: tuple[Value, ...] = field(default=(), repr=False)

    @classmethod
    def below(cls, parent: "Page", name: bytes, tokens: bytes) -> "State":
        """Return a state behind `tokens`, which go on from `parent`; it is in the tree."""
        state = cls(name, parent, tokens, parent.adapter, parent.start + PAGE_TOKENS)
        parent.states[tokens] = state
        return state

    @property
    def in_memory(self) -> bool:
        """Whether its arrays are there to be used at once."""
        return self.held is not None

    def arrays(self) -> list[mx.array]:
        """Return its arrays, one after the other."""
        return list(self.held.arrays) if self.held is not None else []

    def forget_arrays(self) -> None:
        """Let go of what is in memory."""
        self.held = None

    def behind(self) -> list[Held]:
        """Return it alone: nothing needs it."""
        return [self]

    def detach(self) -> None:
        """Leave the tree."""
        if self.parent is not None and self.parent.states.get(self.tokens) is self:
            del self.parent.states[self.tokens]


@dataclass(eq=False)
class Page(Held):
    """At most 128 tokens and what was computed for them; the root has none.

    `whole` says that windows had dropped nothing yet, so that the arrays of their caches are here as well. `children`
    and `states` go on from its end, by their tokens.
    """

    run: Run | None = field(default=None, repr=False)
    whole: bool = True
    children: "dict[bytes, Page]" = field(default_factory=dict, repr=False)
    order: list[bytes] = field(default_factory=list, repr=False)
    states: dict[bytes, State] = field(default_factory=dict, repr=False)

    @classmethod
    def below(cls, parent: "Page", name: bytes, tokens: bytes, *, whole: bool) -> "Page":
        """Return a page that goes on from `parent`, not in the tree yet."""
        return cls(name, parent, tokens, parent.adapter, parent.start + PAGE_TOKENS, whole=whole)

    @property
    def in_memory(self) -> bool:
        """Whether its arrays are there to be used at once."""
        return self.run is not None

    def arrays(self) -> list[mx.array]:
        """Return its arrays, one after the other."""
        return [array for arrays in self.run or () for array in arrays]

    def forget_arrays(self) -> None:
        """Let go of what is in memory."""
        self.run = None

    def nearest(self, tokens: bytes) -> tuple["Page | None", int]:
        """Return the child that begins most like `tokens`, and how many tokens are alike."""
        exact = self.children.get(tokens)
        if exact is not None:
            return exact, exact.count
        place = bisect_left(self.order, tokens)
        best: tuple[Page | None, int] = (None, 0)
        # In the order of bytes whoever is most alike stands right beside.
        for key in self.order[max(0, place - 1) : place + 1]:
            alike = common_tokens(key, tokens)
            if alike > best[1]:
                best = self.children[key], alike
        return best

    def adopt(self, page: "Page") -> "Page | None":
        """Take `page` as a child; return the child that it goes on from and replaces, with its files."""
        shorter, alike = self.nearest(page.tokens)
        if shorter is not None and alike == shorter.count < page.count:
            page.stale += shorter.stale + ([shorter.name] if shorter.in_file else [])
            shorter.stale = []
            self.disown(shorter)
        else:
            shorter = None
        self.children[page.tokens] = page
        insort(self.order, page.tokens)
        return shorter

    def disown(self, page: "Page") -> None:
        """Let a child go."""
        del self.children[page.tokens]
        self.order.pop(bisect_left(self.order, page.tokens))

    def behind(self) -> list[Held]:
        """Return this page with all states and pages behind it, the farthest first."""
        found: list[Held] = []
        pages = [self]
        while pages:
            page = pages.pop()
            found += [page, *page.states.values()]
            pages.extend(page.children.values())
        return found[::-1]

    def detach(self) -> None:
        """Leave the tree."""
        if self.parent is not None and self.parent.children.get(self.tokens) is self:
            self.parent.disown(self)


@dataclass(frozen=True)
class Walk:
    """How far the tree knows some tokens: pages from the root on, and how many tokens of the last one are alike."""

    root: Page
    pages: Sequence[Page]
    last: int

    @property
    def count(self) -> int:
        """How many tokens are alike."""
        return (len(self.pages) - 1) * PAGE_TOKENS + self.last if self.pages else 0

    def states(self, at_most: int) -> Iterator[tuple[int, State]]:
        """Yield the states on the way with their places, the farthest first, up to `at_most` tokens."""
        limit = min(self.count, at_most)
        for index in range(len(self.pages) - 1, -1, -1):
            states = self.pages[index - 1].states if index else self.root.states
            for size in sorted({len(tokens) for tokens in states}, reverse=True):
                place = index * PAGE_TOKENS + size // TOKEN_BYTES
                if place <= limit and (state := states.get(self.pages[index].tokens[:size])) is not None:
                    yield place, state


def walk(root: Page, tokens: bytes) -> Walk:
    """Return how far the tree below `root` knows `tokens`."""
    pages: list[Page] = []
    page, last = root, 0
    for start in range(0, len(tokens), PAGE_BYTES):
        child, alike = page.nearest(tokens[start : start + PAGE_BYTES])
        if child is None:
            break
        pages.append(child)
        page, last = child, alike
        if alike < PAGE_TOKENS:
            break
    return Walk(root, pages, last)


def common_tokens(one: bytes, other: bytes) -> int:
    """Return how many tokens two packed lists have in common at their beginning."""
    size = min(len(one), len(other))
    differing = int.from_bytes(one[:size], "big") ^ int.from_bytes(other[:size], "big")
    return (size - -(-differing.bit_length() // 8)) // TOKEN_BYTES
