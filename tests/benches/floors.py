"""The floors under Hearth's speed: what a run of mxload must show, relative to Synapse on PostgreSQL in the
same run, or in absolute terms where a machine's speed does not matter. Not for measuring; see `compare`.
"""

# Scenario, beginning of the phase's name, metric, how many times better than the baseline at least.
RATIOS = [
    ("send", "", "events acknowledged", 100),
    ("send", "", "server CPU per event", 100),
    ("send", "", "latency p99", 20),
    ("fanout", "highest", "messages delivered, overloaded", 100),
    ("fanout", "low", "server CPU per delivery", 100),
    ("initial-sync", "full", "time (median)", 40),
    ("initial-sync", "full", "server CPU per sync", 40),
    ("initial-sync", "lazy", "time (median)", 40),
    ("initial-sync", "lazy", "server CPU per sync", 40),
    ("paginate", "first", "events read", 12),
    ("paginate", "first", "server CPU per event", 12),
    ("paginate", "second", "events read", 12),
    ("paginate", "second", "server CPU per event", 12),
    ("big-room", "grow", "join p50", 80),
    ("big-room", "grow", "server CPU per join", 80),
    ("state-churn", "", "state events", 80),
    ("state-churn", "", "server CPU per state event", 80),
]
# Scenario, beginning of the phase's name, metric, the most it may be in mxload's unit.
LIMITS = [
    ("idle", "start", "time to first answer", 300),
    ("idle", "at the start", "RSS", 40),
    ("idle", "at the end", "RSS", 200),
    ("big-room", "grow", "growth of a join's time", 1.3),
    ("big-room", "grow", "on disk per join", 2),
]


def judge(result, baseline):
    """A Markdown table that says of each floor whether `result` stands on it; both are mxload's results."""
    rows = [f"| floors: {result['label']} | asked for | measured | |", "|---|---|---|---|"]
    for scenario, phase, name, wanted in RATIOS:
        own, other = find(result, scenario, phase, name), find(baseline, scenario, phase, name)
        if not own or not other:
            rows.append(row(scenario, phase, name, f"×{wanted}", "no figure", False))
            continue
        ratio = better_by(own, other)
        rows.append(row(scenario, phase, name, f"×{wanted}", f"×{ratio:.1f}", ratio >= wanted))
    for scenario, phase, name, most in LIMITS:
        own = find(result, scenario, phase, name)
        measured = f"{own['value']:.2f} {own['unit']}" if own else "no figure"
        rows.append(row(scenario, phase, name, f"≤ {most}", measured, own and own["value"] <= most))
    return "\n".join(rows)


def row(scenario, phase, name, wanted, measured, met):
    place = f"{scenario}, {phase}" if phase else scenario
    return f"| {place}: {name} | {wanted} | {measured} | {'met' if met else '**missed**'} |"


def better_by(own, other):
    """How many times better; a figure of 0 counts as a thousandth, so that there is a ratio."""
    smallest = 1e-3
    mine, theirs = max(own["value"], smallest), max(other["value"], smallest)
    return mine / theirs if own["better"] == "higher" else theirs / mine


def find(result, scenario, phase, name):
    for part in result["phases"]:
        if part["scenario"] == scenario and part["phase"].startswith(phase):
            for metric in part["metrics"]:
                if metric["name"] == name:
                    return metric
    return None
