"""People with many devices talk in encrypted rooms through matrix-nio: every message is read by each device
that should read it, and by none that should not.

Reads HEARTH_URL (the server; registration is open there) and HEARTH_RESTART_COMMAND (a shell command that
returns when the server has been restarted). Bob lives on another server when HEARTH_PEER_URL names one.
Ends with status 1 at the first thing that is wrong. Not for cross-signing, which nio does not have, and not for
what needs no encryption.
"""

import asyncio
import logging
import os
import pathlib
import secrets
import subprocess
import tempfile
import time

import nio

URL = os.environ["HEARTH_URL"]
PEER_URL = os.environ.get("HEARTH_PEER_URL", URL)
RESTART_COMMAND = os.environ.get("HEARTH_RESTART_COMMAND")
PASSWORD = "correct horse battery staple"
SECONDS_MAX = 30
ROOM_DEVICES = 20
ENCRYPTION = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}


async def main():
    with tempfile.TemporaryDirectory() as stores:
        house = House(pathlib.Path(stores))
        try:
            await house.live()
        finally:
            for device in house.devices:
                await device.client.close()


class Device:
    """One client with its own store, and what it could read: texts by event, None where it has no key."""

    def __init__(self, client):
        self.client, self.heard, self.unread = client, {}, {}
        client.add_event_callback(self.note_text, nio.RoomMessageText)
        client.add_event_callback(self.note_unread, nio.MegolmEvent)

    def note_text(self, _room, event):
        assert event.decrypted, f"{event.event_id} was sent in the clear"
        self.heard[event.event_id] = event.body

    def note_unread(self, _room, event):
        self.unread[event.event_id] = event

    def read_again(self):
        """Keys may come after the message."""
        for event_id, event in list(self.unread.items()):
            try:
                self.heard[event_id] = self.client.decrypt_event(event).body
                del self.unread[event_id]
            except nio.EncryptionError:
                pass

    async def step(self):
        client = self.client
        succeeded(await client.sync(timeout=0))
        if client.should_upload_keys:
            succeeded(await client.keys_upload())
        if client.should_query_keys:
            succeeded(await client.keys_query())
        if client.should_claim_keys:
            succeeded(await client.keys_claim(client.get_users_for_key_claiming()))
        await client.send_to_device_messages()
        self.read_again()


class House:
    def __init__(self, stores):
        self.stores, self.devices = stores, []
        # What cannot be read is what this is about.
        logging.getLogger("nio").setLevel(logging.CRITICAL)

    async def live(self):
        alice = await self.register("alice", URL)
        bob = await self.register("bob", PEER_URL)
        room_id = await open_room(alice, bob)
        await self.talk(room_id, alice, bob)
        tablet = await self.log_in(alice.client.user_id, URL)
        await self.verify(alice, tablet)
        await self.verify(alice, bob)
        await self.request_key(room_id, alice, bob)
        await self.let_newcomer_in(room_id, alice, bob)
        await self.log_out(room_id, tablet, alice, bob)
        await self.fill_room(room_id, alice, bob)
        if RESTART_COMMAND:
            await asyncio.to_thread(subprocess.run, RESTART_COMMAND, shell=True, check=True, stdout=subprocess.DEVNULL)
            await self.say_to_all(room_id, alice, "After the restart")
            done("the conversation goes on after a restart")

    async def register(self, name, url):
        client = nio.AsyncClient(url, f"{name}-{secrets.token_hex(4)}")
        answer = succeeded(await client.register(client.user, PASSWORD))
        succeeded(await client.logout())
        await client.close()
        return await self.log_in(answer.user_id, url)

    async def log_in(self, user_id, url):
        store = self.stores / str(len(list(self.stores.iterdir())))
        store.mkdir()
        config = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True)
        client = nio.AsyncClient(url, user_id, store_path=str(store), config=config)
        succeeded(await client.login(PASSWORD))
        device = Device(client)
        self.devices.append(device)
        await device.step()
        return device

    async def until(self, holds, what, devices=None):
        deadline = time.monotonic() + SECONDS_MAX
        while time.monotonic() < deadline:
            for device in devices or self.devices:
                await device.step()
            if holds():
                return
        raise AssertionError(f"waited in vain for {what}")

    async def say_to_all(self, room_id, speaker, text):
        """Says something that every device in the room must be able to read."""
        await self.until(lambda: knows_devices(speaker, self.devices, room_id), "the devices of all members")
        event_id = await say(speaker, room_id, text)
        listeners = [device for device in self.devices if room_id in device.client.rooms]
        await self.until(lambda: all(device.heard.get(event_id) == text for device in listeners), f"«{text}» everywhere")
        return event_id

    async def talk(self, room_id, alice, bob):
        await self.say_to_all(room_id, alice, "Can you read this?")
        await self.say_to_all(room_id, bob, "Every word")
        done("two people talk")

    async def verify(self, one, two):
        """Short authentication strings: both see the same emoji, and trust each other's device then."""
        theirs = (two.client.user_id, two.client.device_id)
        await self.until(lambda: knows(one, two) and knows(two, one), "each other's device", [one, two])
        other = one.client.device_store[theirs[0]][theirs[1]]
        succeeded(await one.client.start_key_verification(other))
        await self.until(lambda: two.client.key_verifications, "the start of the verification", [one, two])
        (transaction,) = two.client.key_verifications
        succeeded(await two.client.accept_key_verification(transaction))
        both = [device.client.key_verifications[transaction] for device in (one, two)]
        await self.until(lambda: all(sas.established_sas for sas in both), "the keys of the verification", [one, two])
        assert both[0].get_emoji() == both[1].get_emoji()
        for device in (one, two):
            succeeded(await device.client.confirm_short_auth_string(transaction))
        await self.until(lambda: all(sas.verified for sas in both), "the end of the verification", [one, two])
        assert one.client.device_store[theirs[0]][theirs[1]].verified
        for device in (one, two):
            device.client.key_verifications.clear()
        done(f"devices of {one.client.user_id} and {theirs[0]} are verified")

    async def request_key(self, room_id, alice, bob):
        """A new device asks an older one of the same person for the key of what was said before."""
        event_id = await self.say_to_all(room_id, bob, "Before the phone was bought")
        phone = await self.log_in(alice.client.user_id, URL)
        await self.until(lambda: event_id in phone.unread, "a message that the phone cannot read")
        await self.verify(alice, phone)
        succeeded(await phone.client.request_room_key(phone.unread[event_id]))
        await self.until(lambda: alice.client.olm.received_key_requests, "the request, and a key to answer it")
        # nio goes on with requests when a sync brings anything new.
        await say(bob, room_id, "Where is my phone?")
        await self.until(lambda: phone.heard.get(event_id) == "Before the phone was bought", "the key that was asked for")
        await self.say_to_all(room_id, bob, "After the phone was bought")
        done("a new device asks for a key and gets it, and reads what comes after")

    async def let_newcomer_in(self, room_id, alice, bob):
        carol = await self.register("carol", PEER_URL)
        before = await self.say_to_all(room_id, alice, "Carol is not here yet")
        succeeded(await alice.client.room_invite(room_id, carol.client.user_id))
        await self.until(lambda: room_id in carol.client.invited_rooms, "the invitation")
        succeeded(await carol.client.join(room_id))
        await self.until(lambda: len(alice.client.rooms[room_id].users) == 3, "three members")
        await self.say_to_all(room_id, bob, "Carol is here")
        page = succeeded(await carol.client.room_messages(room_id, carol.client.next_batch, limit=50))
        found = {event.event_id: event for event in page.chunk}
        assert before not in carol.heard and (before not in found or isinstance(found[before], nio.MegolmEvent))
        done("who comes later reads what is said from then on, and nothing from before")

    async def log_out(self, room_id, tablet, alice, bob):
        client = tablet.client
        succeeded(await client.logout())
        self.devices.remove(tablet)
        await self.until(lambda: active_device_ids(bob, client.user_id).isdisjoint({client.device_id}), "the device to go")
        await self.say_to_all(room_id, alice, "The tablet is sold")
        await client.close()
        done("a device that was logged out is gone from everybody's list")

    async def fill_room(self, room_id, alice, bob):
        people = [(alice.client.user_id, URL), (bob.client.user_id, PEER_URL)]
        while len(self.devices) < ROOM_DEVICES:
            await self.log_in(*people[len(self.devices) % 2])
        for number, device in enumerate(self.devices):
            await self.say_to_all(room_id, device, f"Device {number}")
        done(f"{ROOM_DEVICES} devices talk, and each reads all of it")


async def open_room(alice, bob):
    created = await alice.client.room_create(
        preset=nio.RoomPreset.private_chat, invite=[bob.client.user_id], initial_state=[ENCRYPTION]
    )
    room_id = succeeded(created).room_id
    deadline = time.monotonic() + SECONDS_MAX
    while room_id not in bob.client.invited_rooms:
        assert time.monotonic() < deadline, "the invitation did not come"
        await bob.step()
    succeeded(await bob.client.join(room_id))
    while len(alice.client.rooms[room_id].users if room_id in alice.client.rooms else []) < 2:
        assert time.monotonic() < deadline, "bob did not join"
        await alice.step()
    assert alice.client.rooms[room_id].encrypted
    done("an encrypted room is opened")
    return room_id


def active_device_ids(device, user_id):
    return {known.id for known in device.client.device_store.active_user_devices(user_id)}


def knows(one, other):
    return other.client.device_id in active_device_ids(one, other.client.user_id)


def knows_devices(speaker, devices, room_id):
    """Whether the speaker knows exactly the devices that are in the room, beside its own."""
    members = set(speaker.client.rooms[room_id].users)
    there = {(d.client.user_id, d.client.device_id) for d in devices if d.client.user_id in members}
    there.discard((speaker.client.user_id, speaker.client.device_id))
    known = {(user, device) for user in members for device in active_device_ids(speaker, user)}
    known.discard((speaker.client.user_id, speaker.client.device_id))
    return there == known


async def say(device, room_id, text):
    content = {"msgtype": "m.text", "body": text}
    sent = await device.client.room_send(room_id, "m.room.message", content, ignore_unverified_devices=True)
    return succeeded(sent).event_id


def succeeded(answer):
    assert not isinstance(answer, nio.ErrorResponse), answer
    return answer


def done(claim):
    print(f"ok: {claim}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
