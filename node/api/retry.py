"""When a client that was turned away for now should ask again."""

import math
from typing import Final

from node.models.errors import ModelResting, ServerBusy, WorkerStopped

# Where nobody knows how long: answers end within seconds.
BUSY_S: Final = 1


def retry_after(error: ServerBusy | WorkerStopped) -> dict[str, str]:
    """Return the header `Retry-After` (RFC 9110), in whole seconds, at least one."""
    seconds = math.ceil(error.seconds) if isinstance(error, ModelResting) else BUSY_S
    return {"retry-after": str(max(BUSY_S, seconds))}
