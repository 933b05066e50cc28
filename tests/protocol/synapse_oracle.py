"""Answers, line by line, what Synapse makes of rooms: states, verdicts, hashes, signatures, redactions.

A request is a room: its version, its events (federation format, as text) and which of them were rejected,
the states to resolve (lists of event IDs), the events to judge, each with a state, and those whose
choice of authorisation events is to be judged. Run with a Python that has the package `matrix-synapse`.
"""

import base64
import hashlib
import json
import sys

from canonicaljson import encode_canonical_json
from signedjson.key import decode_signing_key_base64
from synapse.api.errors import SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.crypto.event_signing import compute_content_hash, compute_event_signature
from synapse.event_auth import check_state_dependent_auth_rules, check_state_independent_auth_rules
from synapse.events import make_event_from_json
from synapse.events.utils import prune_event
from synapse.state import v1, v2
from synapse.storage.databases.main.event_federation import StateDifference

# The key of all servers in the generated rooms.
KEY = decode_signing_key_base64("ed25519", "test", base64.b64encode(bytes([7] * 32)).decode().rstrip("="))


class Store:
    """The events of one room, in memory."""

    def __init__(self, events):
        self.events = events

    async def get_events(self, event_ids, redact_behaviour=None, allow_rejected=False):
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
    raise AssertionError("the coroutine waits")


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
    event = make_event_from_json(pdu, version)
    return allows(lambda: check_state_dependent_auth_rules(event, [store.events[i] for i in state]))


def check_receipt(store, version, pdu):
    event = make_event_from_json(pdu, version)
    return allows(lambda: run(check_state_independent_auth_rules(store, event)))


def allows(check):
    """Whether a check passes. One that trips over itself refuses, too: the event goes no further."""
    try:
        check()
    except (SynapseError, AttributeError, RuntimeError, ValueError):
        return False
    return True


def describe(version, pdu, event):
    """What hashing, signing and redaction make of an event."""
    content_hash = compute_content_hash(json.loads(pdu), hashlib.sha256)[1]
    server = event.sender.partition(":")[2]
    unsigned = {**json.loads(pdu), "signatures": {}}
    signatures = compute_event_signature(version, unsigned, server, KEY)
    redacted = prune_event(event).get_pdu_json()
    redacted.pop("unsigned", None)
    return {
        "event_id": event.event_id,
        "content_hash": base64.b64encode(content_hash).decode().rstrip("="),
        "signature": signatures[server]["ed25519:test"],
        "redacted": encode_canonical_json(redacted).decode(),
    }


def answer(request):
    version = KNOWN_ROOM_VERSIONS[request["room_version"]]
    rejected = set(request["rejected"])
    events = [
        make_event_from_json(pdu, version, {}, "rejected" if number in rejected else None)
        for number, pdu in enumerate(request["events"])
    ]
    store = Store({event.event_id: event for event in events})
    room_id = events[0].room_id
    return {
        "events": [describe(version, pdu, event) for pdu, event in zip(request["events"], events)],
        "resolved": [resolve(store, room_id, version, states) for states in request["resolve"]],
        "verdicts": [judge(store, version, pdu, state) for pdu, state in request["judge"]],
        "receipts": [check_receipt(store, version, pdu) for pdu in request["receive"]],
    }


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
