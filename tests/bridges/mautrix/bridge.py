"""A small bridge on mautrix with encryption: it reads what people write in encrypted rooms, and has a ghost answer each
with an echo, encrypted. Either its device is made as MSC4190 says, and everything that encryption needs comes with
transactions (MSC3202, MSC4203); or it logs in as an application service, and syncs for that.

    bridge.py SETTINGS     a file of JSON: homeserver, domain, port, directory, is_syncing, and the registration

It reports in lines of JSON what it has read. Not for what a real network is like.
"""

import asyncio
import json
import logging
import pathlib
import signal
import sys
import types

from mautrix.appservice import AppService
from mautrix.appservice.state_store.asyncpg import PgASStateStore
from mautrix.bridge.e2ee import EncryptionManager
from mautrix.client import InternalEventType
from mautrix.client.state_store.asyncpg import PgStateStore
from mautrix.crypto import PgCryptoStateStore
from mautrix.types import EventType, Membership, MessageType, TextMessageEventContent, UserID
from mautrix.util.async_db import Database

# As the settings of bridges have them, with their names in full.
ENCRYPTION = {
    "bridge.encryption.verification_levels": {"receive": "unverified", "send": "unverified", "share": "cross-signed-tofu"},
    "bridge.encryption.allow_key_sharing": True,
    "bridge.encryption.delete_keys": None,
    "bridge.encryption.rotation.disable_device_change_key_rotation": False,
}
# What needs the newer ways of application services, with a cross-signed device.
NEWER = ["appservice", "msc4190", "self_sign"]
KEY_SECONDS_MAX = 15


async def main(settings):
    bridge = EchoBridge(settings)
    await bridge.start()
    report(ready=True, device=bridge.encryption.client.device_id)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await bridge.stop()


class EchoBridge:
    def __init__(self, settings):
        registration, domain = settings["registration"], settings["domain"]
        self.port, self.events = settings["port"], asyncio.Queue()
        self.database_url = f"sqlite://{pathlib.Path(settings['directory']) / 'bridge.db'}"
        self.database = Database.create(self.database_url, upgrade_table=PgStateStore.upgrade_table)
        states = PgASStateStore(self.database)
        self.service = AppService(
            server=settings["homeserver"],
            domain=domain,
            id=registration["id"],
            as_token=registration["as_token"],
            hs_token=registration["hs_token"],
            bot_localpart=registration["sender_localpart"],
            ephemeral_events=True,
            encryption_events=not settings["is_syncing"],
            state_store=states,
            loop=asyncio.get_running_loop(),
        )
        self.ghost_id = UserID(f"@echo_ghost:{domain}")
        self.encryption = self.prepare_encryption(settings, states)
        # In the order of their arrival, one after the other.
        self.service.matrix_event_handler(self.events.put)
        self.service.device_list_handler = self.note_devices
        client = self.encryption.client
        client.remove_event_handler(InternalEventType.DEVICE_LISTS, self.encryption.crypto.handle_device_lists)
        client.add_event_handler(InternalEventType.DEVICE_LISTS, self.note_devices)

    def prepare_encryption(self, settings, states):
        """What mautrix's own bridges use. It asks the bridge only for rooms and users, of which this one keeps none."""

        async def nothing(*_):
            return None

        homeserver, by_transactions = settings["homeserver"], not settings["is_syncing"]
        bridge = types.SimpleNamespace(
            loop=asyncio.get_running_loop(),
            az=self.service,
            name="echo",
            config={**ENCRYPTION, **{f"bridge.encryption.{name}": by_transactions for name in NEWER}},
            state_store=states,
            get_portal=nothing,
            get_user=nothing,
        )
        encryption = EncryptionManager(bridge, homeserver, "@echo_", f":{settings['domain']}", self.database_url)
        encryption.crypto_db.override_pool(self.database)
        encryption.crypto.state_store = encryption.state_store = PgCryptoStateStore(self.database)
        return encryption

    async def start(self):
        """It listens last: what comes before it can decrypt would be lost."""
        await self.database.start()
        await self.encryption.start()
        await self.service.start("127.0.0.1", self.port)
        self.worker = asyncio.create_task(self.work())

    async def stop(self):
        await self.service.stop()
        self.worker.cancel()
        await self.encryption.stop()
        await self.database.stop()

    async def work(self):
        while True:
            event = await self.events.get()
            try:
                await self.handle(event)
            except Exception:  # noqa: BLE001  (whatever it is, it is told, and the next event has its turn)
                logging.exception("an event could not be handled")
                report(failed=event.event_id)

    async def handle(self, event):
        if event.type == EventType.ROOM_MEMBER:
            await self.handle_member(event)
        elif event.type == EventType.ROOM_ENCRYPTED and not self.is_own(event.sender):
            message = await self.encryption.decrypt(event, wait_session_timeout=KEY_SECONDS_MAX)
            report(read=message.content.body, sender=event.sender, event=event.event_id)
            await self.answer(event.room_id, f"echo: {message.content.body}")

    async def handle_member(self, event):
        if event.content.membership == Membership.INVITE and self.is_own(event.state_key):
            intent = self.intent(event.state_key)
            # Which also makes the user.
            await intent.ensure_joined(event.room_id)
            if event.state_key == self.service.bot_mxid:
                # These also go into the store, from which it is taken for whom to encrypt, and how.
                await intent.get_joined_members(event.room_id)
                await intent.get_state_event(event.room_id, EventType.ROOM_ENCRYPTION)
        else:
            await self.encryption.handle_member_event(event)

    async def answer(self, room_id, text):
        content = TextMessageEventContent(msgtype=MessageType.TEXT, body=text)
        encrypted = await self.encryption.encrypt(room_id, EventType.ROOM_MESSAGE, content)
        await self.intent(self.ghost_id).send_message_event(room_id, *encrypted)

    async def note_devices(self, lists):
        await self.encryption.crypto.handle_device_lists(lists)
        if lists.changed:
            report(devices_of=lists.changed)

    def is_own(self, user_id):
        return user_id in (self.ghost_id, self.service.bot_mxid)

    def intent(self, user_id):
        return self.service.intent if user_id == self.service.bot_mxid else self.service.intent.user(user_id)


def report(**words):
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(json.loads(pathlib.Path(sys.argv[1]).read_text())))
