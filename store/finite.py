"""The check that no weight is NaN or infinite, while the bytes stream past."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import DTypeLike

from store.errors import WeightsNotFinite
from store.safetensors import Tensor

# Type: its bits as unsigned and as signed integers, and those of the smallest positive that is no finite number. As
# signed integers the positive ones are the largest, as unsigned ones the negative ones are.
_LIMITS: Final[Mapping[str, tuple[DTypeLike, DTypeLike, int]]] = {
    "F16": ("<u2", "<i2", 0x7C00),
    "BF16": ("<u2", "<i2", 0x7F80),
    "F32": ("<u4", "<i4", 0x7F80_0000),
    "C64": ("<u4", "<i4", 0x7F80_0000),
    "F64": ("<u8", "<i8", 0x7FF0_0000_0000_0000),
    "F8_E5M2": ("u1", "i1", 0x7C),
    "F8_E4M3": ("u1", "i1", 0x7F),
    "F8_E8M0": ("u1", "i1", 0xFF),  # it has no sign
}


class FiniteCheck:
    """Takes a file's bytes in order and refuses the first tensor with a NaN or an infinity."""

    def __init__(self, file: str, tensors: Sequence[Tensor]) -> None:
        self._file = file
        self._tensors = [tensor for tensor in reversed(tensors) if tensor.dtype in _LIMITS and tensor.length]
        self._position = 0
        self._rest = b""

    def feed(self, block: memoryview) -> None:
        """Check the next bytes of the file.

        Raises:
            WeightsNotFinite: it names the tensor.
        """
        end = self._position + len(block)
        while self._tensors and self._tensors[-1].offset < end:
            tensor = self._tensors[-1]
            start = max(tensor.offset, self._position) - self._position
            self._check(tensor, block[start : min(tensor.offset + tensor.length, end) - self._position])
            if tensor.offset + tensor.length > end:
                break
            self._tensors.pop()
        self._position = end

    def _check(self, tensor: Tensor, piece: memoryview) -> None:
        unsigned, signed, limit = _LIMITS[tensor.dtype]
        size = np.dtype(unsigned).itemsize
        if self._rest:  # a number that lies across two blocks
            piece = memoryview(self._rest + piece)
        whole = len(piece) - len(piece) % size
        self._rest = bytes(piece[whole:])
        numbers = np.frombuffer(piece[:whole], unsigned)
        sign = 1 << 8 * size - 1
        # Two passes without a copy are faster than one that masks the signs away.
        if numbers.size and (int(numbers.view(signed).max()) >= limit or int(numbers.max()) >= limit | sign):
            raise WeightsNotFinite(self._file, tensor.name)
