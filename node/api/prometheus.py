"""Prometheus' text format, version 0.0.4: what `/metrics` is written in.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[Mapping[str, str], float]


@dataclass(frozen=True)
class Metric:
    """One metric: its name, kind, what it means, and its value for each set of labels."""

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    samples: Sequence[Sample]


def single(name: str, kind: Literal["counter", "gauge"], meaning: str, value: float) -> Metric:
    """Return a metric without labels."""
    return Metric(name, kind, meaning, (({}, value),))


def write_metrics(metrics: Iterable[Metric]) -> str:
    """Return `metrics` as text; each has its type and meaning before its values."""
    return "".join(_write(metric) for metric in metrics)


def _write(metric: Metric) -> str:
    lines = [f"# HELP {metric.name} {_escaped(metric.meaning, quotes=False)}", f"# TYPE {metric.name} {metric.kind}"]
    lines += [f"{metric.name}{_labels(labels)} {_number(value)}" for labels, value in metric.samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value, quotes=True)}"' for name, value in labels.items()) + "}"


def _escaped(text: str, *, quotes: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
