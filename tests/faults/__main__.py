"""The long run: 10,000 kills and 2,000 disk calls that fail, a thousand for each seed.

python -m tests.faults [SEED]
"""

import random
import sys

from tests.faults.surroundings import run_loop

FIRST = int(sys.argv[1]) if len(sys.argv) > 1 else random.SystemRandom().randrange(10**6)

for number, errors in enumerate([False] * 10 + [True] * 2):
    seed = FIRST + number
    result = run_loop(1000, seed, errors=errors)
    print(f"seed {seed}, {'errors' if errors else 'kills'}: {result['faults']}, at {result['at']}", flush=True)
