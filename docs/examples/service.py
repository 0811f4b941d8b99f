"""Keep an app warm, send it requests, and compare the time with a run that starts from nothing."""

import time

from agilab import AGI, AgiEnv

env = AgiEnv("flight_telemetry")
settings = {"dates": ["2013-07-04", "2013-07-04"], "origins": ["JFK"]}

begun = time.monotonic()
alone = AGI.run(env, env.request(settings, cluster={"workers": 2})).check()
print(f"a run by itself: {time.monotonic() - begun:.2f} s")

AGI.service(env, "start", cluster={"workers": 2})
try:
    for _ in range(3):
        begun = time.monotonic()
        run = AGI.service(env, "submit", settings).wait().check()
        print(f"a request to the service: {time.monotonic() - begun:.2f} s, run {run.run_id}")
    health = AGI.service(env, "health")
    print(health.verdict, health.reason)
finally:
    AGI.service(env, "stop")

hashes = [{item.path: item.sha256 for item in one.artifacts()} for one in (alone, run)]
assert hashes[0] == hashes[1]
print(len(hashes[0]), "artifacts, with the same hashes")
