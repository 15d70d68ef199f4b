"""JSON as text, without spaces: the parts of which streams are put together."""

import json
from json.encoder import encode_basestring
from typing import Final

quote: Final = encode_basestring
"""Return a text as JSON."""

compact: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
"""Return any value as JSON; what JSON has no words for is a ValueError or a TypeError."""
