"""Run an app on hosts over SSH, and compare with a run here: ``python ssh_run.py alpha=2 beta=4``."""

import sys

from agilab import AGI, AgiEnv

hosts = {name: int(slots) for name, _, slots in (text.partition("=") for text in sys.argv[1:])}
if not hosts:
    print("name hosts of ~/.ssh/config, and how many workers each may run: ssh_run.py alpha=2 beta=4")
    sys.exit()

env = AgiEnv("flight_telemetry")
settings = {"dates": ["2013-07-04", "2013-07-05"], "origins": ["JFK"]}

there = AGI.run(env, env.request(settings, cluster={"backend": "ssh", "workers": hosts})).check()
here = AGI.run(env, env.request(settings, cluster={"backend": "local", "workers": 2})).check()

hashes = [{item.path: item.sha256 for item in run.artifacts()} for run in (there, here)]
assert hashes[0] == hashes[1]
print(len(hashes[0]), "artifacts, equal to those made here, by", there.manifest["backend"]["hosts"])
