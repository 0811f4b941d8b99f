"""Run an app on a Dask cluster of its own on this machine, and compare with a run without Dask."""

from agilab import AGI, AgiEnv

env = AgiEnv("flight_telemetry")
settings = {"dates": ["2013-07-04", "2013-07-05"], "origins": ["JFK"]}

on_dask = AGI.run(env, env.request(settings, cluster={"backend": "dask", "workers": 2})).check()
here = AGI.run(env, env.request(settings, cluster={"backend": "local", "workers": 2})).check()

hashes = [{item.path: item.sha256 for item in run.artifacts()} for run in (on_dask, here)]
assert hashes[0] == hashes[1]
print(len(hashes[0]), "artifacts, equal with and without Dask, on", on_dask.manifest["backend"]["workers"])
