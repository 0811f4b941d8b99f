"""Run the shipped app on one day of real flights, and look at what it left."""

from agilab import AGI, AgiEnv

env = AgiEnv("flight_telemetry")
AGI.install(env, report=print)

request = env.request({"dates": ["2013-07-04", "2013-07-04"], "sample_s": 60})
run = AGI.run(env, request).check()

print(run.run_id, run.state, run.paths.root)
for name, value in run.metrics.items():
    print(f"{name}: {value:,.0f}")
for artifact in run.artifacts():
    print(artifact.path, artifact.size_bytes, artifact.sha256[:12])
