"""A process with a models service and a loaded worker: prints the worker's process id and waits to be killed."""

import trio

from node.models.demo import demo_directory
from node.models.service import Models
from node.models.testing import DirectoryLibrary
from node.ports import SystemClock, SystemEntropy


async def main() -> None:
    library = DirectoryLibrary()
    library.add("demo", demo_directory())
    models = Models(library, SystemClock(), SystemEntropy())
    async with trio.open_nursery() as nursery:
        await nursery.start(models.run)
        await models.load("demo", None)
        print(models.worker_pids()[0], flush=True)
        await trio.sleep_forever()


trio.run(main)
