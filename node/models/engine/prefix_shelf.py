"""Where pages and states are: in memory under one cap, in files under another; whoever is longest unused goes first.

A page is always used with all before it, and counts as used later than what lies behind it. So the longest unused one
has nothing behind it that is in memory, or in a file, and can go alone.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import mlx.core as mx

from node.models.engine.prefix_disk import Found, PrefixDisk
from node.models.engine.prefix_rows import RowPlan, Run, Snapshot, as_bytes, describe, from_bytes
from node.models.engine.prefix_tree import OVERHEAD_BYTES, Held, Page, State
from protocol.prefix_file import MAX_BODY_BYTES, PAGE_TOKENS, TOKEN_BYTES, Kind, PrefixHeader

_mx: Final[Any] = mx
# So many files are given to the disk at once while somebody is being answered.
AT_ONCE: Final = 32


class Shelf:
    """The pages and states of all adapters."""

    def __init__(self, shape: str, max_bytes: int, disk: PrefixDisk | None) -> None:
        self._shape = shape
        self._max_bytes = max_bytes
        self._disk = disk
        self._roots: dict[str, Page] = {}
        self._used: OrderedDict[Held, None] = OrderedDict()
        self._filed: OrderedDict[bytes, Held] = OrderedDict()
        self._filed_bytes = 0
        self._unwritten: dict[Held, None] = {}
        self.nbytes = 0

    def root(self, adapter: str) -> Page:
        """Return what all prompts of `adapter` begin with."""
        if adapter not in self._roots:
            name = self._disk.keys.root(adapter, self._shape) if self._disk is not None else b""
            self._roots[adapter] = Page(name, None, b"", adapter, -PAGE_TOKENS)
        return self._roots[adapter]

    def name(self, kind: Kind, parent: Page, tokens: bytes) -> bytes:
        """Return the name of the file for `tokens` behind `parent`; without a disk there is none."""
        return self._disk.keys.name(kind, parent.name, tokens) if self._disk is not None else b""

    def set_quiet(self, quiet: bool) -> None:
        """Say whether nobody is being answered."""
        if self._disk is not None:
            self._disk.set_quiet(quiet)

    def hold_page(self, page: Page, run: Run) -> None:
        """Hold `run`, the arrays of `page`, which takes its place in the tree if it has none yet."""
        parent = page.parent
        assert parent is not None
        if parent.children.get(page.tokens) is not page:
            self._replaced(parent.adopt(page))
        page.run = run
        self._hold(page, page.arrays())

    def hold_state(self, state: State, held: Snapshot) -> None:
        """Hold what `state` remembers."""
        state.held = held
        state.values = held.values
        self._hold(state, list(held.arrays))

    def touch(self, path: Sequence[Held]) -> None:
        """Note that all of `path`, from the first page on, was of use now; then let go what is over the caps."""
        names = []
        for held in reversed(path):
            if held in self._used:
                self._used.move_to_end(held)
            if held.in_file:
                self._filed.move_to_end(held.name)
                names.append(held.name)
        if names and self._disk is not None:
            self._disk.touch(names)
        self._fit()

    def limit(self, max_bytes: int) -> None:
        """Hold at most so many bytes in memory from now on."""
        self._max_bytes = max_bytes
        self._fit()

    def fetch(self, path: Sequence[Held], plan: RowPlan) -> bool:
        """Bring into memory what of `path` is only in files; return False where one is gone, and is forgotten now."""
        missing = [held for held in path if not held.in_memory]
        if not missing or self._disk is None:
            return not missing
        bodies = self._disk.read([(held.name, held.tensors) for held in missing])
        complete = True
        for held, body in zip(missing, bodies, strict=True):
            arrays = from_bytes(held.tensors, memoryview(body)) if body is not None else None
            if arrays is None or not self._fill(held, arrays, plan):
                self._remove(held)
                complete = False
        return complete

    def write_out(self) -> None:
        """Give to the disk what is not in a file yet, whatever comes first in a prompt first."""
        if self._disk is None:
            return
        for name in self._disk.failed():
            if (held := self._filed.get(name)) is not None:
                self._unfile(held)
                if not held.in_memory:
                    self._remove(held)
        for held in list(self._unwritten):
            self._write_once(self._disk, held)
        self._fit()
        self._disk.set_quiet(True)

    def write_some(self) -> None:
        """Give a part of it to the disk where much has come together, because somebody is always being answered."""
        if self._disk is not None and len(self._unwritten) > 2 * AT_ONCE and self._disk.pending < AT_ONCE:
            for held in list(self._unwritten)[:AT_ONCE]:
                self._write_once(self._disk, held)

    def close(self) -> None:
        """Write what is not on the disk yet, and wait for it."""
        self.write_out()
        if self._disk is not None:
            self._disk.close()

    def attach(self, plan: RowPlan) -> None:
        """Put into the tree what the disk found at the start; what leads nowhere is removed."""
        if self._disk is None:
            return
        pages: dict[bytes, Page] = {}
        used_s: dict[Held, float] = {}
        for found in sorted(self._disk.found(), key=_depth):
            held = self._attached(found, pages, plan)
            if held is None:
                self._disk.remove(found.name)
            else:
                used_s[held] = found.used_s
        behind_first = [held for held in reversed(used_s) if not held.gone]
        for held in behind_first:
            # A page was used whenever anything behind it was, though it was written before.
            if held.parent in used_s:
                used_s[held.parent] = max(used_s[held.parent], used_s[held])
        for held in sorted(behind_first, key=lambda held: used_s[held]):
            self._file(held)
        self._fit()

    def _attached(self, found: Found, pages: dict[bytes, Page], plan: RowPlan) -> Held | None:
        header = found.header
        if header.shape != self._shape:
            return None
        root = self.root(header.adapter)
        parent = root if header.parent == root.name else pages.get(header.parent)
        if parent is None or header.start != parent.start + PAGE_TOKENS:
            return None
        count = len(header.tokens) // TOKEN_BYTES
        page, alike = parent.nearest(header.tokens)
        if header.kind == "state":
            if page is None or alike < count or len(header.values) != len(plan.in_states):
                return None
            state = State.below(parent, found.name, header.tokens)
            state.tensors, state.values = header.tensors, tuple(header.values)
            return state
        whole = plan.is_whole(len(header.tensors))
        if whole is None or alike == count:
            return None
        page = Page.below(parent, found.name, header.tokens, whole=whole)
        page.tensors = header.tensors
        if (shorter := parent.adopt(page)) is not None:
            shorter.gone = True
            self._drop_file(shorter.name)
        if count == PAGE_TOKENS:
            pages[found.name] = page
        return page

    def _hold(self, held: Held, arrays: Sequence[mx.array]) -> None:
        held.nbytes = sum(array.nbytes for array in arrays) + OVERHEAD_BYTES
        self.nbytes += held.nbytes
        self._used[held] = None
        if not held.in_file:
            self._unwritten[held] = None
            # Only copies inside memory: done while the next token is computed.
            _mx.async_eval(arrays)

    def _fill(self, held: Held, arrays: tuple[mx.array, ...], plan: RowPlan) -> bool:
        if isinstance(held, State):
            self.hold_state(held, Snapshot(arrays, held.values))
            return True
        assert isinstance(held, Page)
        run = plan.run_of(arrays)
        if run is None:
            return False
        self.hold_page(held, run)
        return True

    def _write_once(self, disk: PrefixDisk, held: Held) -> None:
        del self._unwritten[held]
        if not held.gone and not held.in_file and held.in_memory:
            self._write(disk, held)

    def _write(self, disk: PrefixDisk, held: Held) -> None:
        parent = held.parent
        assert parent is not None
        arrays = held.arrays()
        held.tensors = describe(arrays)
        header = PrefixHeader(
            kind="state" if isinstance(held, State) else "page",
            adapter=held.adapter,
            shape=self._shape,
            parent=parent.name,
            start=held.start,
            tokens=held.tokens,
            tensors=held.tensors,
            values=held.values if isinstance(held, State) else (),
        )
        if (parent.in_file or parent.parent is None) and header.body_bytes <= MAX_BODY_BYTES:
            disk.write(header, as_bytes(arrays), held.stale)
            held.stale = []
            self._file(held)

    def _file(self, held: Held) -> None:
        held.in_file = True
        self._filed[held.name] = held
        self._filed_bytes += held.file_bytes

    def _unfile(self, held: Held) -> None:
        held.in_file = False
        del self._filed[held.name]
        self._filed_bytes -= held.file_bytes

    def _drop_file(self, name: bytes) -> None:
        if self._disk is not None:
            self._disk.remove(name)

    def _fit(self) -> None:
        while self.nbytes > self._max_bytes and self._used:
            held = next(iter(self._used))
            if held.in_file:
                self._forget_arrays(held)
            else:
                self._remove(held)
        while self._disk is not None and self._filed_bytes > self._disk.max_bytes:
            held = next(iter(self._filed.values()))
            if held.in_memory:
                self._drop_file(held.name)
                self._unfile(held)
            else:
                self._remove(held)

    def _forget_arrays(self, held: Held) -> None:
        if held.in_memory:
            held.forget_arrays()
            self.nbytes -= held.nbytes
            del self._used[held]

    def _replaced(self, page: Page | None) -> None:
        """Let go of a page in whose place a longer one stands now; its file goes when that one has its own."""
        if page is not None:
            page.gone = True
            self._forget_arrays(page)
            if page.in_file:
                self._unfile(page)

    def _remove(self, held: Held) -> None:
        """Forget `held` and what lies behind it, in memory and in files."""
        for each in held.behind():
            each.gone = True
            self._forget_arrays(each)
            if each.in_file:
                self._drop_file(each.name)
                self._unfile(each)
            for name in each.stale:
                self._drop_file(name)
        held.detach()


def _depth(found: Found) -> tuple[int, str, int]:
    header = found.header
    return header.start, header.kind, len(header.tokens)
