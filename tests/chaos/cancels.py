"""Cancels runs at random moments, again and again, and checks that everything is gone in time and has one final state.

By hand::

    python -m tests.chaos.cancels --cancels 200 --seed 1
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from agilab import AGI, AgiEnv, Stage, manifest
from agilab.testing import do, make_probe, processes_marked
from agilab.testing.probe import events, wait_until

GONE_S = 2.0
"""How long a cancelled run may take until nothing of it is left [s]."""
LONGEST_S = 0.8
"""How long a run may have gone on when it is cancelled [s]."""


def cancel_once(env: AgiEnv, folder: Path, chance: random.Random) -> tuple[str, float]:
    """Cancel a run that would not end by itself; return its final state and how long it took to be gone [s]."""
    parts = [do(f"p{number}", ["random", "numbers"]) for number in range(chance.randrange(40))]
    hang = [do(f"hang{number}", ["hang", str(folder / f"{chance.random()}")]) for number in range(2)]
    request = env.request({"plan": {"schema": "agilab.plan/1", "stages": [Stage("first", [*parts, *hang]).to_json()]}})
    run = AGI.submit(env, request)
    end = time.monotonic() + chance.random() * LONGEST_S
    wait_until(lambda: time.monotonic() > end)
    begun = time.monotonic()
    AGI.cancel(env, run.run_id)
    wait_until(lambda: not processes_marked(run.run_id))
    took_s = time.monotonic() - begun
    assert [one["outcome"] for one in events(run, "state") if one["state"] == "sealing"] == [run.state]
    verified = manifest.verify(run.paths)
    assert verified.ok, verified.problems
    return run.state, took_s


def cancel_many(folder: Path, count: int, seed: int) -> tuple[Counter[str], float]:
    """Cancel many runs; return how they ended, and the longest that one took to be gone [s]."""
    env = AgiEnv(make_probe(folder), home=folder / "home", wenv=folder / "wenv")
    AGI.install(env)
    chance = random.Random(seed)
    found = [cancel_once(env, folder, chance) for _ in range(count)]
    return Counter(state for state, _ in found), max(took_s for _, took_s in found)


def main() -> int:
    """Cancel as often as asked, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cancels", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agilab-cancels-") as folder:
        states, longest_s = cancel_many(Path(folder), given.cancels, given.seed)
    print(f"{given.cancels} cancels, seed {given.seed}: {dict(states)}, gone after {longest_s:.2f} s at most")
    return 0 if longest_s < GONE_S else 1


if __name__ == "__main__":
    sys.exit(main())
