"""When a client that was turned away for now should ask again."""

import math

from node.models.errors import ModelResting, ServerBusy, WorkerStopped

# Where nobody knows how long: answers end within seconds.
BUSY_S = 1


def retry_after(error: ServerBusy | WorkerStopped) -> dict[str, str]:
    """Return the header that says it, whole seconds."""
    seconds = math.ceil(error.seconds) if isinstance(error, ModelResting) else BUSY_S
    return {"retry-after": str(max(BUSY_S, seconds))}
