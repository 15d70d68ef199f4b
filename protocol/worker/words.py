"""Words of an answer that follow one another, put together: fewer messages say the same."""

from typing import Final

from protocol.worker import logprobs
from protocol.worker.messages import Text

MOST_CHARACTERS: Final = 1024 * 1024
"""Of what is put together, so that messages and chunks of a stream stay small; one may be larger by itself."""


def joined(first: Text, second: Text) -> Text | None:
    """Return what `first` and `second`, the next of the same answer, say as one message.

    None if they do not go together: the one is thinking and the other is not, only one has log-probabilities, or they
    are too large.
    """
    weights, more_weights = first.logprobs_json, second.logprobs_json
    length = len(first.text) + len(second.text) + len(weights) + len(more_weights)
    if first.thinking != second.thinking or bool(weights) != bool(more_weights) or length > MOST_CHARACTERS:
        return None
    both = logprobs.concatenated(weights, more_weights) if weights else ""
    return Text(first.request, first.text + second.text, first.thinking, second.tokens, both)
