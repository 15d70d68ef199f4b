"""What the models service has done since the node started, in numbers: nothing here tells what was asked."""

from collections import Counter
from dataclasses import dataclass, field

from protocol.worker.messages import Done, Status


@dataclass
class Metrics:
    """Counts since the start. `answers` by how they ended, `failures` by the name of the error, loads in seconds."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    prefix_hits: int = 0
    prefix_misses: int = 0
    prompt_seconds: float = 0.0
    answer_seconds: float = 0.0
    loads: int = 0
    load_seconds: float = 0.0

    def answered(self, done: Done) -> None:
        """Count an answer that a worker finished."""
        self.answers[done.reason] += 1
        self.prompt_tokens += done.prompt_tokens
        self.prompt_seconds += done.prompt_ns / 1e9
        self.answer_seconds += done.eval_ns / 1e9
        self.cached_tokens += done.cached_tokens
        self.answer_tokens += done.eval_tokens
        self.drafted_tokens += done.drafted_tokens
        self.accepted_tokens += done.accepted_tokens

    def failed(self, error: Exception) -> None:
        """Count a worker that ended on its own, or a model that did not load."""
        self.failures[type(error).__name__] += 1

    def ended(self, status: Status) -> None:
        """Keep what a worker that has ended had counted."""
        self.prefix_hits += status.prefix_hits
        self.prefix_misses += status.prefix_misses

    def loaded(self, seconds: float) -> None:
        """Count a model that was brought into memory."""
        self.loads += 1
        self.load_seconds += seconds
