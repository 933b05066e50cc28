"""Times Synapse's state resolution on the rooms that the benchmark `resolution` has written.

Prints a line of JSON for each fork. Run with a Python that has the package `matrix-synapse`.
Synapse asks its database for the difference of the authorisation chains; it gets it for nothing here.
"""

import gc
import json
import pathlib
import sys
import time

import synapse.event_auth  # noqa: F401  (before synapse.state, with which it imports in a circle)
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.events import make_event_from_json
from synapse.state import v2
from synapse.storage.databases.main.event_federation import StateDifference

RUNS = 3


class Store:
    """The events of a room in memory, and the known difference of its forks."""

    def __init__(self, events):
        self.events = events
        self.difference = frozenset()

    async def get_events(self, event_ids, redact_behaviour=None, allow_rejected=False):
        return {i: self.events[i] for i in event_ids if i in self.events}

    async def get_auth_chain_difference(self, *_):
        return StateDifference(auth_difference=set(self.difference), conflicted_subgraph=set(self.difference))


class Clock:
    async def sleep(self, duration):
        return None


def run(coroutine):
    """Runs a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        return result.value
    raise RuntimeError("the coroutine waits")


def measure(path):
    room = json.loads(path.read_text())
    version = KNOWN_ROOM_VERSIONS[room["room_version"]]
    events = [make_event_from_json(text, version) for text in room.pop("events")]
    store = Store({event.event_id: event for event in events})
    entry = [((event.type, event.state_key), event.event_id) for event in events]
    base = dict(entry[number] for number in room["base"])
    for fork in room["forks"]:
        branches = room["branches"][: fork["branches"]]
        states = [base | dict(entry[number] for number in branch) for branch in branches]
        store.difference = frozenset(fork["difference"])
        seconds = []
        for _ in range(RUNS):
            gc.collect()
            began = time.perf_counter()
            resolved = dict(
                run(v2.resolve_events_with_store(Clock(), events[0].room_id, version, states, None, store))
            )
            seconds.append(time.perf_counter() - began)
        assert resolved == base | dict(entry[number] for number in fork["resolved"]), path
        facts = {"version": room["room_version"], "members": room["members"], "branches": fork["branches"]}
        print(json.dumps({**facts, "seconds": min(seconds)}), flush=True)


for name in sorted(pathlib.Path(sys.argv[1]).glob("*.json"), key=lambda path: path.stat().st_size):
    measure(name)
