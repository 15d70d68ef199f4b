"""The check that no weight is NaN or infinite, while the bytes stream past."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import DTypeLike

from store.errors import WeightsNotFinite
from store.safetensors import Tensor

# Type: how to view it, which bits are magnitude, and the smallest magnitude that is no finite number.
_MAGNITUDES: Final[Mapping[str, tuple[DTypeLike, int, int]]] = {
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "BF16": ("<u2", 0x7FFF, 0x7F80),
    "F32": ("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "C64": ("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "F64": ("<u8", 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F8_E5M2": ("u1", 0x7F, 0x7C),
    "F8_E4M3": ("u1", 0x7F, 0x7F),
    "F8_E8M0": ("u1", 0xFF, 0xFF),
}


class FiniteCheck:
    """Takes a file's bytes in order and refuses the first tensor with a NaN or an infinity."""

    def __init__(self, file: str, tensors: Sequence[Tensor]) -> None:
        self._file = file
        self._tensors = [tensor for tensor in reversed(tensors) if tensor.dtype in _MAGNITUDES and tensor.length]
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
        view, magnitude, limit = _MAGNITUDES[tensor.dtype]
        if self._rest:  # a number that lies across two blocks
            piece = memoryview(self._rest + piece)
        whole = len(piece) - len(piece) % np.dtype(view).itemsize
        self._rest = bytes(piece[whole:])
        numbers = np.frombuffer(piece[:whole], view)
        if numbers.size and int((numbers & numbers.dtype.type(magnitude)).max()) >= limit:
            raise WeightsNotFinite(self._file, tensor.name)
