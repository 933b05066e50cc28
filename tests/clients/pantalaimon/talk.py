"""A client that knows nothing of encryption talks in an encrypted room through pantalaimon, which encrypts for it;
the other side is a client with libolm.

Reads HEARTH_URL (the server; registration is open there) and HEARTH_RESTART_COMMAND (a shell command that
returns when the server has been restarted). Ends with status 1 at the first thing that is wrong. Not for what
nio/encrypt.py shows: verification, requests for keys, many devices.
"""

import asyncio
import os
import pathlib
import secrets
import socket
import subprocess
import sys
import tempfile
import time

import nio

URL = os.environ["HEARTH_URL"]
RESTART_COMMAND = os.environ["HEARTH_RESTART_COMMAND"]
PASSWORD = "correct horse battery staple"
SECONDS_MAX = 30
CONFIGURATION = """\
[Default]
LogLevel = Warning
SSL = False

[hearth]
Homeserver = {url}
ListenAddress = 127.0.0.1
ListenPort = {port}
IgnoreVerification = True
UseKeyring = No
"""


async def main():
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        proxy, proxy_url = start_proxy(directory)
        alice, bob = await log_in("alice", proxy_url, None), await log_in("bob", URL, directory)
        try:
            room_id = await open_room(alice, bob)
            await wait_for_proxy(room_id, alice, bob)
            await talk(room_id, alice, bob, "before the restart")
            await asyncio.to_thread(subprocess.run, RESTART_COMMAND, shell=True, check=True, stdout=subprocess.DEVNULL)
            await talk(room_id, alice, bob, "after the restart")
        finally:
            await alice.close()
            await bob.close()
            proxy.terminate()
            proxy.wait()


def start_proxy(directory):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    configuration = directory / "pantalaimon.conf"
    configuration.write_text(CONFIGURATION.format(url=URL, port=port))
    data = directory / "pantalaimon"
    data.mkdir()
    command = [sys.executable, "-m", "pantalaimon.main", "--config", configuration, "--data-path", data]
    proxy = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        assert proxy.poll() is None and time.monotonic() < deadline, "pantalaimon did not start"
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) == 0:
                return proxy, f"http://127.0.0.1:{port}"
        time.sleep(0.05)


async def log_in(name, url, store):
    """With a store the client encrypts by itself."""
    visitor = nio.AsyncClient(URL, f"{name}-{secrets.token_hex(4)}")
    user_id = succeeded(await visitor.register(visitor.user, PASSWORD)).user_id
    succeeded(await visitor.logout())
    await visitor.close()
    config = nio.AsyncClientConfig(encryption_enabled=store is not None)
    client = nio.AsyncClient(url, user_id, store_path=str(store or ""), config=config)
    succeeded(await client.login(PASSWORD))
    await step(client)
    done(f"{name} logs in" + (" through pantalaimon" if url != URL else ""))
    return client


async def open_room(alice, bob):
    encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    created = await alice.room_create(
        preset=nio.RoomPreset.private_chat, invite=[bob.user_id], initial_state=[encryption]
    )
    room_id = succeeded(created).room_id
    await until([bob], lambda _: room_id in bob.invited_rooms)
    succeeded(await bob.join(room_id))
    await until([alice, bob], lambda _: all(len(c.rooms[room_id].users) == 2 if room_id in c.rooms else False for c in (alice, bob)))
    done("an encrypted room is opened")
    return room_id


async def wait_for_proxy(room_id, alice, bob):
    """The proxy has a sync of its own, and shares keys with the members that it knows: alice speaks until it knows bob.

    Before that sync has brought the room itself, the proxy refuses with M_UNKNOWN: "The pantalaimon client did not
    manage to sync" is what it says of every room that it does not know yet, for its `has_been_synced` never holds.
    """
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        sent = await alice.room_send(room_id, "m.room.message", {"msgtype": "m.text", "body": "Hello?"})
        if isinstance(sent, nio.RoomSendError) and sent.status_code == "M_UNKNOWN":
            await asyncio.sleep(0.1)
            continue
        succeeded(sent)
        event = await until([bob], lambda answers: find(answers[bob], room_id, sent.event_id))
        if not isinstance(event, nio.MegolmEvent):
            return
    raise AssertionError("pantalaimon never learned of bob")


async def talk(room_id, alice, bob, when):
    for speaker, listener in ((alice, bob), (bob, alice)):
        text = f"{speaker.user_id} {when}"
        content = {"msgtype": "m.text", "body": text}
        options = {"ignore_unverified_devices": True} if speaker is bob else {}
        event_id = succeeded(await speaker.room_send(room_id, "m.room.message", content, **options)).event_id
        event = await until([alice, bob], lambda answers: find(answers[listener], room_id, event_id))
        assert getattr(event, "body", None) == text, event
        raw = await raw_event(bob, room_id, event_id)
        assert raw["type"] == "m.room.encrypted", raw
    done(f"both read each other {when}, and the server has nothing but what is encrypted")


async def raw_event(client, room_id, event_id):
    visitor = nio.AsyncClient(URL, client.user_id)
    visitor.restore_login(client.user_id, client.device_id, client.access_token)
    fetched = succeeded(await visitor.room_get_event(room_id, event_id)).event.source
    await visitor.close()
    return fetched


async def until(clients, happened):
    """Has clients sync until `happened(answers)`, whose value is returned."""
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        if found := happened({client: await step(client) for client in clients}):
            return found
    raise AssertionError("waited in vain")


async def step(client):
    answer = succeeded(await client.sync(timeout=100))
    if client.should_upload_keys:
        succeeded(await client.keys_upload())
    if client.should_query_keys:
        succeeded(await client.keys_query())
    if client.should_claim_keys:
        succeeded(await client.keys_claim(client.get_users_for_key_claiming()))
    if client.olm:
        await client.send_to_device_messages()
    return answer


def find(answer, room_id, event_id):
    room = answer.rooms.join.get(room_id)
    return next((event for event in room.timeline.events if event.event_id == event_id), None) if room else None


def succeeded(answer):
    assert not isinstance(answer, nio.ErrorResponse), answer
    return answer


def done(claim):
    print(f"ok: {claim}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
