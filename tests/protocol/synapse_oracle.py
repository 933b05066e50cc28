"""Answers, line by line, how Synapse resolves states and judges events.

A request is a room: its version, its events (federation format), the states to resolve (lists of event
IDs), and the events to judge, each with a state. The answer has the resolved states and the verdicts.
Run with a Python that has the package `matrix-synapse`.
"""

import json
import sys

from synapse.api.errors import SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.event_auth import check_state_dependent_auth_rules
from synapse.events import make_event_from_dict
from synapse.state import v1, v2
from synapse.storage.databases.main.event_federation import StateDifference


class Store:
    """The events of one room, in memory."""

    def __init__(self, events):
        self.events = events

    async def get_events(self, event_ids, allow_rejected=False):
        return {i: self.events[i] for i in event_ids if i in self.events}

    def auth_chain(self, event_ids):
        chain, work = set(), list(event_ids)
        while work:
            event_id = work.pop()
            if event_id not in chain:
                chain.add(event_id)
                work.extend(self.events[event_id].auth_event_ids())
        return chain

    async def get_auth_chain_difference(self, room_id, state_sets, conflicted_state, additional):
        chains = [self.auth_chain(state) for state in state_sets]
        difference = set.union(*chains) - set.intersection(*chains)
        subgraph = None
        if conflicted_state is not None:
            reached = self.auth_chain(conflicted_state)
            subgraph = {i for i in reached if self.auth_chain([i]) & set(conflicted_state)}
        return StateDifference(auth_difference=difference, conflicted_subgraph=subgraph)


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


def state_map(store, event_ids):
    events = (store.events[i] for i in event_ids)
    return {(e.type, e.state_key): e.event_id for e in events}


def resolve(store, room_id, version, states):
    states = [state_map(store, state) for state in states]
    if version.identifier == "1":
        resolved = v1.resolve_events_with_store(
            room_id, version, states, None, store.get_events
        )
    else:
        resolved = v2.resolve_events_with_store(Clock(), room_id, version, states, None, store)
    return sorted(run(resolved).values())


def judge(store, version, pdu, state):
    event = make_event_from_dict(pdu, version)
    try:
        check_state_dependent_auth_rules(event, [store.events[i] for i in state])
    except SynapseError:
        return False
    return True


def answer(request):
    version = KNOWN_ROOM_VERSIONS[request["room_version"]]
    events = [make_event_from_dict(pdu, version) for pdu in request["events"]]
    store = Store({event.event_id: event for event in events})
    room_id = events[0].room_id
    return {
        "event_ids": [event.event_id for event in events],
        "resolved": [resolve(store, room_id, version, states) for states in request["resolve"]],
        "verdicts": [judge(store, version, pdu, state) for pdu, state in request["judge"]],
    }


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
