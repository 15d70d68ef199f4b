"""A simulated hub as a process of a test: started, asked what it was asked, stopped."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("hub_server.py")
REPO = "Acme/Tiny-Model"
DATE = "2024-05-06T07:08:09.000Z"


class SimulatedHub:
    """A running `hub_server.py` with one repository; each directory is a commit `v1`, `v2`, …, the last is `main`."""

    def __init__(self, place: Path, *directories: Path, repo: str = REPO, port: int = 0, **faults: object) -> None:
        place.mkdir(exist_ok=True)
        self.log, config = place / "hub.log", place / "hub.json"
        self.log.write_text("")
        commits = [{"directory": str(d), "date": DATE, "refs": [f"v{n}", "main"]} for n, d in enumerate(directories, 1)]
        repos = {repo: {"commits": commits, **faults}}
        config.write_text(json.dumps({"log": str(self.log), "port": port, "repos": repos}))
        self._process = subprocess.Popen([sys.executable, str(SERVER), str(config)], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url, self.cdn = self._process.stdout.readline().split()
        self.port = int(self.url.rpartition(":")[2])

    def requests(self, word: str = "", method: str = "") -> list[dict[str, Any]]:
        """Return what was asked of the place `word` (`hub`, `cdn`), or under paths that hold it."""
        rows = [json.loads(line) for line in self.log.read_text().splitlines()]
        asked = [row for row in rows if "path" in row and (word in row["path"] or word == row["place"])]
        return [row for row in asked if method in ("", row["method"])]

    def forget(self) -> None:
        """Forget what was asked."""
        self.log.write_text("")

    def stop(self) -> None:
        """End the process; nobody answers any more."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
