"""LoRA and DoRA adapters over one base: each row of a batch with its own, or with none, in one forward pass.

The base is in memory once. Where all rows of a pass want the same, mlx-lm's own layer computes it; where they differ,
the adapters' small matrices lie in one stack, and each row's product is taken with its own part of it. A pass in which
no row has an adapter costs nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from node.models.errors import ModelRefused
from store.errors import StoreError
from store.lora import read_adapter

BARE: Final = ""
_LEAVES: Final = ("lora_a", "lora_b", "m")
# By name, because only the engine's own file knows mlx-lm: experts are sorted together inside the layer that holds
# them, where it can no longer be told to which row each belongs.
_EXPERTS: Final = "LoRASwitchLinear"
_LINEAR: Final = ("LoRALinear", "DoRALinear")
# What mlx publishes no types for.
_mx: Final[Any] = mx
_nn: Final[Any] = nn


class LoraBank:
    """The adapters of one loaded model. `load_adapters(model, directory)` is mlx-lm's, which knows what is wrapped."""

    def __init__(self, model: Any, load_adapters: Callable[[Any, str], Any]) -> None:
        self._model = model
        self._load_adapters = load_adapters
        self._layers: dict[str, dict[str, Any]] = {}  # adapter -> path of a module -> mlx-lm's layer in its place
        self._put: list[_Put] = []
        self._rows = _Rows()

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that can be selected."""
        return tuple(self._layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all adapters."""
        return sum(array.nbytes for layers in self._layers.values() for array in _arrays(layers))

    def add(self, adapter: str, directory: Path) -> None:
        """Read the adapter in `directory`, which must have exactly the tensors that its config gives the model.

        Raises:
            ModelRefused: it does not fit the base, or its files are damaged.
        """
        if adapter == BARE:
            raise ModelRefused("an adapter without a name")
        if adapter in self._layers:
            return
        # Read with the same checks as at the build: what a peer or a registry sent was not built here.
        try:
            names = {tensor.name for tensor in read_adapter(directory).header.tensors}
        except StoreError as error:
            raise ModelRefused(_one_line(error)) from error
        self._take_out()
        try:
            layers = self._read(directory)
            wanted = {f"{path}.{leaf}" for path, layer in layers.items() for leaf in _LEAVES if leaf in layer}
            if missing := sorted(wanted - names):
                raise ModelRefused(f"the adapter lacks {len(missing)} tensors, {missing[0]} among them")
            self._layers[adapter] = layers
        finally:
            self._put_in()

    def drop(self, adapter: str) -> None:
        """Forget an adapter; no row uses it."""
        if self._layers.pop(adapter, None) is not None:
            self._take_out()
            self._put_in()

    def select(self, adapters: Sequence[str]) -> None:
        """Prepare the next forward pass, which has one row for each of `adapters`; empty is the bare model.

        Raises:
            ModelRefused: an adapter that was not added.
        """
        for adapter in set(adapters):
            if adapter != BARE and adapter not in self._layers:
                raise ModelRefused("an adapter that was not loaded")
        self._rows.select(tuple(adapters))

    def _read(self, directory: Path) -> dict[str, Any]:
        """Return mlx-lm's layers with the adapter's tensors, by the path of the module that each stands over."""
        before = dict(self._model.named_modules())
        try:
            self._load_adapters(self._model, str(directory))  # refuses tensors that are extra or of another shape
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ModelRefused(_one_line(error)) from error
        finally:
            layers = {path: module for path, module in self._model.named_modules() if "lora_a" in module}
            for path in layers:
                holder, key = _holder(self._model, path)
                holder[key] = before[path]
        # On CPUs the base was cast to float32 as a whole; on Metal base and adapters keep the types of their files.
        widen = _floats(self._model) == {mx.float32}
        for layer in layers.values():
            layer.eval()
            for leaf in _LEAVES if widen else ():
                if leaf in layer:
                    layer[leaf] = layer[leaf].astype(mx.float32)
        mx.eval([_arrays(layers)])
        return layers

    def _put_in(self) -> None:
        paths = sorted({path for layers in self._layers.values() for path in layers})
        groups = set()
        for path in paths:
            variants = {name: layers[path] for name, layers in self._layers.items() if path in layers}
            if any(type(layer).__name__ == _EXPERTS for layer in variants.values()):
                groups.add(path.rpartition(".")[0])
            self._replace(path, partial(_over, self._rows, variants))
        for path in sorted(groups, key=len, reverse=True):
            self._replace(path, partial(_InTurns, self._rows))

    def _replace(self, path: str, make: Callable[[Any], Any]) -> None:
        holder, key = _holder(self._model, path)
        self._put.append(_Put(holder, key, holder[key]))
        holder[key] = make(holder[key])

    def _take_out(self) -> None:
        while self._put:
            put = self._put.pop()
            put.holder[put.key] = put.module


@dataclass(frozen=True)
class _Put:
    """Where a module was replaced, and by what it is to be replaced again."""

    holder: Any
    key: Any
    module: Any


class _Rows:
    """Which adapter each row of the pass has; `single` is set where all have the same."""

    def __init__(self) -> None:
        self.adapters: tuple[str, ...] = ()
        self.single: str | None = BARE
        self._indices: dict[tuple[str, ...], mx.array | None] = {}

    def select(self, adapters: tuple[str, ...]) -> None:
        if adapters != self.adapters:
            self.adapters = adapters
            self.single = None if len(set(adapters)) > 1 else next(iter(adapters), BARE)
            self._indices.clear()

    def indices(self, order: tuple[str, ...]) -> mx.array | None:
        """Return the place of each row's adapter in `order`, 0 for none of them, or None where all would be 0."""
        if order not in self._indices:  # many layers share one order
            places = {name: place for place, name in enumerate(order, start=1)}
            found = [places.get(name, 0) for name in self.adapters]
            self._indices[order] = mx.array(found, dtype=mx.uint32) if any(found) else None
        return self._indices[order]


class _Wrapper(_nn.Module):  # type: ignore[misc]  # mlx publishes no types for it
    """A layer of the base with what adapters lay over it; anything else that is asked of it is the base's own."""

    def __init__(self, rows: _Rows, base: Any) -> None:
        super().__init__()
        self.base = base
        # Found without the detour that mlx makes for parts of a model: every step goes through every wrapper.
        self.__dict__["_under"] = base
        self._rows = rows

    def __getattr__(self, key: str) -> Any:
        try:
            return super().__getattr__(key)
        except AttributeError:
            return getattr(super().__getattr__("base"), key)


class _InTurns(_Wrapper):
    """A layer that cannot be told which row is which: the rows of each adapter go through it together."""

    def __call__(self, x: mx.array, *args: Any, **named: Any) -> Any:
        return self._in_turns(self._under, x, *args, **named)

    def _in_turns(self, call: Callable[..., Any], x: mx.array, *args: Any, **named: Any) -> Any:
        rows = self._rows
        if rows.single is not None:
            return call(x, *args, **named)
        before, tokens = rows.adapters, x.shape[0] // len(rows.adapters)
        parts, order = [], []
        try:
            for adapter in dict.fromkeys(before):
                places = [
                    row * tokens + at for row, name in enumerate(before) if name == adapter for at in range(tokens)
                ]
                order += places
                chosen = mx.array(places)
                rows.select((adapter,))
                parts.append(call(x[chosen], *(arg[chosen] for arg in args), **named))
        finally:
            rows.select(before)
        back = sorted(range(len(order)), key=order.__getitem__)
        return mx.concatenate(parts, axis=0)[mx.array(back)]


class _Layer(_InTurns):
    """A layer that is another one for each adapter; rows that differ are computed one adapter after the other."""

    def __init__(self, rows: _Rows, variants: Mapping[str, Any], base: Any) -> None:
        super().__init__(rows, base)
        self._variants = _Plain(variants)

    def _chosen(self) -> Any:
        rows = self._rows
        return self._under if rows.single is None else self._variants.of(rows.single, self._under)

    def __call__(self, x: mx.array, *args: Any, **named: Any) -> Any:
        return self._in_turns(lambda *given, **words: self._chosen()(*given, **words), x, *args, **named)

    def as_linear(self, x: mx.array) -> Any:
        """Return logits, for the embedding that is also the model's last layer."""
        return self._in_turns(lambda given: self._chosen().as_linear(given), x)


class _Linear(_Layer):
    """A linear layer: rows that differ are computed at once."""

    def __init__(self, rows: _Rows, variants: Mapping[str, Any], base: Any) -> None:
        super().__init__(rows, variants, base)
        self._scales = _Plain({name: _magnitude(layer) for name, layer in variants.items() if "m" in layer})
        self._stack: _Stack | None = None

    def __call__(self, x: mx.array, *args: Any, **named: Any) -> Any:
        rows = self._rows
        if (single := rows.single) is not None:
            if not single:
                return self._under(x)
            if (scale := self._scales.of(single, None)) is not None:
                return _dora(self._under, self._variants.of(single, None), scale, x)
            return self._variants.of(single, self._under)(x)
        y = self._under(x)
        stack = self._stack or self._stack_up()
        if (chosen := rows.indices(stack.order)) is None:
            return y
        wide = x if x.ndim == 3 and x.shape[0] == len(rows.adapters) else x.reshape(len(rows.adapters), -1, x.shape[-1])
        z = _mx.gather_mm(wide.astype(stack.a.dtype), stack.a, rhs_indices=chosen)
        z = _mx.gather_mm(z, stack.b, rhs_indices=chosen)
        out = y + z.astype(x.dtype).reshape(y.shape)
        return out if stack.scales is None else _scaled(out, stack.scales, chosen, self._under)

    def _stack_up(self) -> "_Stack":
        # At the first pass whose rows differ: most bases are asked for one adapter at a time.
        self._stack = _Stack.of(self._variants.values, self._scales.values)
        return self._stack


class _Plain:
    """A mapping that mlx does not take for a part of the model."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def of(self, name: str, otherwise: Any) -> Any:
        return self.values.get(name, otherwise)


@dataclass(frozen=True)
class _Stack:
    """The matrices of all adapters of one layer, padded with zeros to one rank; place 0 is of no adapter.

    `a` is (places, inputs, rank), `b` (places, rank, outputs) with the adapter's scale in it. `scales` has DoRA's
    factor of each output, 1 for LoRA, and is None where no adapter is DoRA.
    """

    order: tuple[str, ...]
    a: mx.array
    b: mx.array
    scales: mx.array | None

    @classmethod
    def of(cls, layers: Mapping[str, Any], scales: Mapping[str, mx.array]) -> "_Stack":
        order = tuple(layers)
        rank = max(layer.lora_a.shape[1] for layer in layers.values())
        some = layers[order[0]]
        a = [mx.zeros((some.lora_a.shape[0], rank), some.lora_a.dtype)]
        b = [mx.zeros((rank, some.lora_b.shape[1]), some.lora_b.dtype)]
        for layer in layers.values():
            spare = rank - layer.lora_a.shape[1]
            a.append(mx.pad(layer.lora_a, [(0, 0), (0, spare)]))
            b.append(mx.pad(layer.scale * layer.lora_b, [(0, spare), (0, 0)]))
        factors = None
        if scales:
            one = mx.ones((some.lora_b.shape[1],))
            factors = mx.stack([one, *(scales.get(name, one) for name in order)])
        stack = cls(order, mx.stack(a), mx.stack(b), factors)
        mx.eval(stack.a, stack.b, *([] if factors is None else [factors]))
        return stack


def _over(rows: _Rows, variants: Mapping[str, Any], base: Any) -> Any:
    kinds = {type(layer).__name__ for layer in variants.values()}
    return (_Linear if kinds <= set(_LINEAR) else _Layer)(rows, variants, base)


def _magnitude(layer: Any) -> mx.array:
    """Return DoRA's factor of each output; mlx-lm computes it anew at every step, and it never changes."""
    weight = layer._dequantized_weight()
    adapted = weight + (layer.scale * layer.lora_b.T) @ layer.lora_a.T
    factor: mx.array = layer.m / mx.linalg.norm(adapted, axis=1)
    mx.eval(factor)
    return factor


def _dora(base: Any, layer: Any, scale: mx.array, x: mx.array) -> mx.array:
    z = (x @ layer.lora_a) @ layer.lora_b
    out = base(x) + (layer.scale * z).astype(x.dtype)
    return _without_bias(out, base, lambda value: scale.astype(x.dtype) * value)


def _scaled(out: mx.array, scales: mx.array, chosen: mx.array, base: Any) -> mx.array:
    each = scales[chosen].astype(out.dtype)
    rows = out.reshape(chosen.shape[0], -1, out.shape[-1])
    return _without_bias(rows, base, lambda value: each[:, None, :] * value).reshape(out.shape)


def _without_bias(out: mx.array, base: Any, change: Callable[[mx.array], mx.array]) -> mx.array:
    # DoRA's factor is for the product alone, and the bias is in what the base gave.
    return change(out - base.bias) + base.bias if "bias" in base else change(out)


def _holder(model: Any, path: str) -> tuple[Any, Any]:
    """Return what holds the module at `path`, and the key or index of it there."""
    *above, last = path.split(".")
    holder = model
    for part in above:
        holder = holder[int(part)] if isinstance(holder, list) else holder[part]
    return holder, int(last) if isinstance(holder, list) else last


def _arrays(layers: Mapping[str, Any]) -> list[mx.array]:
    return [layer[leaf] for layer in layers.values() for leaf in _LEAVES if leaf in layer]


def _floats(model: Any) -> set[Any]:
    parameters: Any = tree_flatten(model.parameters())
    return {array.dtype for _, array in parameters if mx.issubdtype(array.dtype, mx.floating)}


def _one_line(error: Exception) -> str:
    return " ".join(f"{error}".split())[:300] or type(error).__name__
