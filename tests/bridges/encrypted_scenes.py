"""A bridge on mautrix in an encrypted room, and a person with matrix-nio: each reads the other, while Hearth is killed, the
bridge is restarted and the person gets another device.

    encrypted_scenes.py DIRECTORY BINARY transactions|sync PYTHON     runs with nio's Python; PYTHON has mautrix

The third word says how the bridge hears of keys and devices.
"""

import asyncio
import json
import os
import secrets
import sys

import house as houses
from house import HERE, SERVER_NAME, done, machine

BOT, GHOST = f"@echo_bot:{SERVER_NAME}", f"@echo_ghost:{SERVER_NAME}"


def main(house, way, python):
    # The person's programs read it when they are loaded.
    os.environ["HEARTH_URL"] = house.url
    sys.path.insert(0, str(HERE.parent / "clients" / "nio"))
    asyncio.run(play(house, way == "sync", python))


async def play(house, is_syncing, python):
    import encrypt  # the folder has only just become known

    stores = house.directory / "stores"
    stores.mkdir()
    people = encrypt.House(stores)
    try:
        await Scenes(house, (is_syncing, python), encrypt, people).run()
    finally:
        for device in people.devices:
            await device.client.close()


class Scenes:
    def __init__(self, house, bridge, encrypt, people):
        self.house, self.encrypt, self.people = house, encrypt, people
        self.door, self.bridge = start_bridge(house, *bridge)
        # What was said, in order, and the events that this made.
        self.said, self.events = [], []

    async def run(self):
        alice = await self.people.register("alice", self.house.url)
        room = await self.open_room(alice)
        for text in ("Can you read this?", "And this?", "ü€😀"):
            await self.converse(alice, room, text)
        done("the bridge reads what somebody writes, and answers, all of it encrypted")
        self.house.kill()
        self.house.start_again()
        await self.converse(alice, room, "After Hearth was killed")
        done("they go on after Hearth was killed")
        await self.restart_bridge(alice, room)
        await self.add_device(alice, room)
        await self.use_up_keys(alice, room)
        self.check(alice)

    async def open_room(self, alice):
        created = await alice.client.room_create(
            preset=self.encrypt.nio.RoomPreset.private_chat, invite=[BOT, GHOST], initial_state=[self.encrypt.ENCRYPTION]
        )
        room = self.encrypt.succeeded(created).room_id
        members = {alice.client.user_id, BOT, GHOST}
        await self.people.until(lambda: self.members(alice, room) == members, "the bridge to join")
        await self.people.until(lambda: self.encrypt.active_device_ids(alice, BOT) == self.devices(), "the bridge's device")
        return room

    async def converse(self, alice, room, text):
        await self.say(alice, room, text)
        await self.hear_all()

    async def say(self, alice, room, text):
        self.events.append(await self.encrypt.say(alice, room, text))
        self.said.append(text)

    async def hear_all(self):
        """Every device of hers has read the echo of all that was said since it is there, and nothing twice."""
        await self.people.until(lambda: all(self.has_heard(device) for device in self.people.devices), f"{self.said[-1]}")

    def has_heard(self, device):
        return self.echoes(device)[-1:] == [f"echo: {self.said[-1]}"]

    async def restart_bridge(self, alice, room):
        """What is said while it is away is encrypted for its device, with a key that it has not seen either."""
        self.bridge.stop()
        alice.client.invalidate_outbound_session(room)
        for number in range(3):
            await self.say(alice, room, f"While the bridge is away {number}")
        self.bridge.start('{"ready": true')
        self.house.command("appservice", "ping", "echo")
        await self.hear_all()
        await self.converse(alice, room, "After the bridge was restarted")
        done("the bridge is restarted, and reads what was said meanwhile")

    async def add_device(self, alice, room):
        before = len(self.bridge.reports())
        phone = await self.people.log_in(alice.client.user_id, self.house.url)

        def has_heard_of_it():
            return any(alice.client.user_id in report.get("devices_of", []) for report in self.bridge.reports()[before:])

        await self.people.until(has_heard_of_it, "the bridge to hear of a new device")
        await self.people.until(lambda: self.encrypt.knows(alice, phone) and self.encrypt.knows(phone, alice), "each other")
        await self.people.until(lambda: self.encrypt.active_device_ids(phone, BOT) == self.devices(), "the bridge's device")
        for speaker in (alice, phone):
            await self.converse(speaker, room, f"To all devices from {speaker.client.device_id}")
        done("a new device reads the bridge, and is read by it")

    async def use_up_keys(self, alice, room):
        """One after the other takes one-time keys of the bridge's device; it is told how few there are, and makes more."""
        (device,) = self.devices()
        registration = json.loads((self.house.directory / "registration.yaml").read_text())
        taker = TokenHolder(self.house.url, alice.client.access_token)
        bridge = TokenHolder(self.house.url, registration["as_token"])
        counts = f"/_matrix/client/v3/keys/upload?user_id={houses.quote(BOT)}&device_id={houses.quote(device)}"
        before = bridge.post(counts)["one_time_key_counts"]["signed_curve25519"]
        wanted, taken = {"one_time_keys": {BOT: {device: "signed_curve25519"}}}, []
        for number in range(2):
            for _ in range(before - 5):
                (key,) = taker.post("/_matrix/client/v3/keys/claim", wanted)["one_time_keys"][BOT][device]
                taken.append(key)
            # Taken keys alone do not end the wait of a sync.
            knock = f"/_matrix/client/v3/sendToDevice/m.dummy/{number}"
            taker.put(knock, {"messages": {BOT: {device: {}}}})
            await self.people.until(
                lambda: bridge.post(counts)["one_time_key_counts"]["signed_curve25519"] >= before, "new one-time keys"
            )
        assert len(taken) == len(set(taken)) > before, taken
        alice.client.invalidate_outbound_session(room)
        await self.converse(alice, room, "After many took keys")
        done("the bridge hears how many one-time keys are left, and makes more")

    def check(self, alice):
        reports = self.bridge.reports()
        assert not [report for report in reports if "failed" in report], reports
        assert [report["event"] for report in reports if "read" in report] == self.events
        assert self.echoes(alice) == [f"echo: {text}" for text in self.said], self.echoes(alice)
        self.door.check(self.events)
        in_the_clear = [event for event in self.door.list("events") if event["type"] == "m.room.message"]
        assert not in_the_clear, in_the_clear
        done("nothing was lost, nothing came twice, and nothing was said in the clear")

    def echoes(self, device):
        return [text for text in device.heard.values() if text.startswith("echo: ")]

    def devices(self):
        """The device that the bridge says it has; the same ever after."""
        return {report["device"] for report in self.bridge.reports() if "ready" in report}

    def members(self, alice, room):
        """Who has joined."""
        known = alice.client.rooms.get(room)
        return set(known.users) - set(known.invited_users) if known else set()


class TokenHolder(houses.federation.User):
    """Somebody who is known already."""

    def __init__(self, url, token):
        self.url, self.token = url, token


def start_bridge(house, is_syncing, python):
    port = machine.free_port()
    door = house.open_door(port)
    registration = {
        "id": "echo",
        "url": door.url,
        "as_token": secrets.token_hex(32),
        "hs_token": secrets.token_hex(32),
        "sender_localpart": "echo_bot",
        "rate_limited": False,
        "namespaces": {"users": [{"regex": f"@echo_.*:{SERVER_NAME}", "exclusive": True}], "aliases": [], "rooms": []},
        "receive_ephemeral": True,
        "de.sorunome.msc2409.push_ephemeral": True,
    }
    if not is_syncing:
        registration |= {"org.matrix.msc3202": True, "io.element.msc4190": True}
    settings = {
        "homeserver": house.open_line().url,
        "domain": SERVER_NAME,
        "port": port,
        "directory": str(house.directory),
        "is_syncing": is_syncing,
        "registration": registration,
    }
    # JSON is YAML.
    for name, content in (("registration.yaml", registration), ("settings.json", settings)):
        (house.directory / name).write_text(json.dumps(content))
    house.command("appservice", "add", house.directory / "registration.yaml")
    bridge = house.add_program("bridge", [python, HERE / "mautrix" / "bridge.py", house.directory / "settings.json"])
    bridge.start('{"ready": true')
    return door, bridge


if __name__ == "__main__":
    houses.play(main)
