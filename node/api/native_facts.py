"""How the native API writes moments and what a model's files say."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from node.models.requests import ModelDetails

# As far away as a clock in 64-bit nanoseconds reaches: how Ollama writes "never".
NEVER: Final = timedelta(days=292 * 365)


def details_facts(details: ModelDetails) -> dict[str, Any]:
    """Return `details` as this API names them."""
    return {
        "parent_model": "",
        "format": details.format,
        "family": details.family,
        "families": [details.family] if details.family else [],
        "parameter_size": details.parameter_size,
        "quantization_level": details.quantization_level,
    }


def rfc3339(moment: datetime) -> str:
    """Return `moment` as this API writes times."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unix_moment(seconds: float) -> str:
    """Return Unix time as this API writes times."""
    return rfc3339(datetime.fromtimestamp(seconds, UTC))
