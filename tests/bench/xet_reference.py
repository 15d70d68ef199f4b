"""A reference: the real hf_xet, which uploads to a folder of this machine and says how many bytes were new to it.

python -m tests.bench.xet_reference ENDPOINT FILE …      prints {"new": bytes, "uploaded": bytes with its own tables}
"""

import json
import sys
from collections.abc import Sequence

import hf_xet  # type: ignore[import-untyped]  # it ships no types


def upload(endpoint: str, files: Sequence[str]) -> dict[str, int]:
    """Upload `files` in one commit; only what the folder `endpoint` does not hold counts."""
    commit = hf_xet.XetSession().new_upload_commit(endpoint=f"local://{endpoint}")
    for file in files:
        commit.start_upload_file(file, hf_xet.SKIP_SHA256)
    found = commit.wait_to_finish().dedup_metrics
    return {"new": found.new_bytes, "uploaded": found.total_bytes_uploaded}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(upload(sys.argv[1], sys.argv[2:])) + "\n")
