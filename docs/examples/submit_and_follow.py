"""Start a run that outlives this process, follow it, and find it again."""

from agilab import AGI, AgiEnv

env = AgiEnv("flight_telemetry")
request = env.request({"dates": ["2013-07-04", "2013-07-05"], "origins": ["JFK"]})

run = AGI.submit(env, request)
print(f"{run.run_id} goes on without me; stop it with: agilab cancel {run.run_id}")

for event in run.events(follow=True):
    if event["event"] == "state":
        print("state", event["state"])
    elif event["event"] == "committed":
        print("committed", event["partition"], "by", event["worker"])

again = env.runs.get(run.run_id).check()
print(again.state, again.metrics)
