"""See what a run would do, partition by partition, without running it."""

from agilab import AGI, AgiEnv

env = AgiEnv("flight_telemetry")
AGI.install(env)

request = env.request({"dates": ["2013-07-01", "2013-07-31"], "partitions": 8})
distribution = AGI.get_distrib(env, request)

for source in distribution.inputs:
    print(f"reads {source.path}: {source.size_bytes:,} bytes")
for stage, workers in distribution.assignment.items():
    weights = {part.id: part.weight for part in distribution.plan.stage(stage).partitions or ()}
    for worker, partitions in workers.items():
        load = sum(weights[name] for name in partitions)
        print(f"{stage} on {worker}: {', '.join(partitions)} (weight {load:,.0f})")
