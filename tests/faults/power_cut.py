"""A store on a disk whose power is cut: the program that writes, and the one that looks at the copied disk.

python -m tests.faults.power_cut write HOME     builds and moves models for ever; says on stdout what is acknowledged
python -m tests.faults.power_cut look HOME      opens the store, hashes everything, prints names and faults as JSON
"""

import itertools
import json
import random
import sys
from pathlib import Path

from protocol.model_name import parse_model_name
from tests.faults.operations import NAMES, OPERATIONS, Place, Step, look


def write(home: Path) -> None:
    """Build models under names that never come again, collecting now and then."""
    place, chance = Place(home), random.Random(1)
    for number in itertools.count():
        name = f"n{number}:latest"
        step = OPERATIONS["create"].step(place, chance)
        step.run(place, lambda _, digest: print(f"made {digest}", flush=True))
        store = place.open()
        store.refs.set(parse_model_name(name), store.refs.list()[-1].digest)
        print(f"named {name} {store.refs.get(parse_model_name(name))}", flush=True)
        store.close()
        if number % 3 == 2:
            OPERATIONS["gc"].step(place, chance).run(place, lambda *_: None)


def main() -> None:
    """Do what the command line says."""
    word, home = sys.argv[1], Path(sys.argv[2])
    if word == "write":
        write(home)
    found, faults = look(Place(home), Step(lambda *_: None, "look"))
    print(
        json.dumps({"found": {name: digest for name, digest in found.items() if name not in NAMES}, "faults": faults})
    )


if __name__ == "__main__":
    main()
