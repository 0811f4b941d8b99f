"""Cancel a run half way, and go on with it: what has committed does not run again."""

from agilab import AGI, AgiEnv

env = AgiEnv("flight_telemetry")
request = env.request({"dates": ["2013-07-01", "2013-07-06"], "sample_s": 60}, cluster={"workers": 1})

committed = []


def stop_half_way(event):
    """Ask for the end of the run once two partitions have committed."""
    if event["event"] == "committed":
        committed.append(event["partition"])
    if len(committed) == 2:
        env.runs.get("flight_telemetry/last").cancel()


run = AGI.run(env, request, on_event=stop_half_way)
print(run.state, "after", len(list(run.records())), "partitions")

again = []
AGI.resume(env, run.run_id, on_event=again.append).check()
print(run.state, "with", len(list(run.records())), "partitions, attempt", run.manifest["attempt"])

ran = {event["partition"] for event in again if event["event"] == "dispatched"}
assert not ran & set(committed)
