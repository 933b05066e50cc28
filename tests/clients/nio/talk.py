"""Two people talk through matrix-nio: what a Python client needs of the server, from registering to
going on after the server was restarted.

Reads HEARTH_URL (the server; registration is open there) and HEARTH_RESTART_COMMAND (a shell command
that returns when the server has been restarted). Ends with status 1 at the first thing that is wrong.
Not for encryption, and not for what a client of this kind never asks.
"""

import asyncio
import io
import os
import secrets
import struct
import subprocess
import time
import zlib

import nio

URL = os.environ["HEARTH_URL"]
RESTART_COMMAND = os.environ["HEARTH_RESTART_COMMAND"]
PASSWORD = "correct horse battery staple"
LONG_POLL_MS = 20_000
LIVE_SECONDS_MAX = 10
HISTORY_LENGTH = 30
PAGE_LENGTH = 7


async def main():
    alice = await register("alice")
    bob = await register("bob")
    try:
        room_id = await open_room(alice, bob)
        await send_and_receive_live(alice, bob, room_id)
        await show_typing_and_receipts(alice, bob, room_id)
        await react_edit_and_redact(alice, bob, room_id)
        await read_history(alice, bob, room_id)
        await share_picture(alice, bob, room_id)
        alice = await restore_after_restart(alice, bob, room_id)
        await leave_and_log_out(alice, bob, room_id)
    finally:
        await alice.close()
        await bob.close()


async def register(name):
    client = nio.AsyncClient(URL, f"{name}-{secrets.token_hex(4)}")
    answer = succeeded(await client.register(client.user, PASSWORD, "first device"))
    assert answer.user_id.startswith(f"@{name}-") and answer.access_token and answer.device_id
    await client.close()
    done(f"{name} registers")
    return await log_in(answer.user_id)


async def log_in(user_id):
    client = nio.AsyncClient(URL, user_id)
    refused = await client.login("not the password")
    assert isinstance(refused, nio.LoginError) and refused.status_code == "M_FORBIDDEN", refused
    succeeded(await client.login(PASSWORD, device_name="nio"))
    assert succeeded(await client.whoami()).user_id == user_id
    succeeded(await client.set_displayname(user_id[1:].split("-")[0].title()))
    await sync(client, 0)
    done(f"{user_id} logs in")
    return client


async def open_room(alice, bob):
    created = await alice.room_create(name="The kitchen", topic="What is for dinner?", preset=nio.RoomPreset.private_chat)
    room_id = succeeded(created).room_id
    invited = asyncio.create_task(sync(bob, LONG_POLL_MS))
    await asyncio.sleep(0.3)
    succeeded(await alice.room_invite(room_id, bob.user_id))
    answer = await asyncio.wait_for(invited, LIVE_SECONDS_MAX)
    assert room_id in answer.rooms.invite, answer
    assert bob.invited_rooms[room_id].display_name == "The kitchen", bob.invited_rooms[room_id].display_name
    succeeded(await bob.join(room_id))
    await sync_until(bob, lambda answer: room_id in answer.rooms.join)
    await sync_until(alice, lambda _: len(alice.rooms[room_id].users) == 2)
    assert bob.rooms[room_id].name == "The kitchen" and bob.rooms[room_id].topic == "What is for dinner?"
    assert bob.rooms[room_id].user_name(alice.user_id) == "Alice", bob.rooms[room_id].users
    done("alice creates a room, bob is invited while he waits, and joins")
    return room_id


async def send_and_receive_live(alice, bob, room_id):
    await drain(bob)
    waiting = asyncio.create_task(sync(bob, LONG_POLL_MS))
    await asyncio.sleep(0.5)
    assert not waiting.done(), "a long poll answered although nothing had happened"
    event_id = await say(alice, room_id, "Soup!")
    events = (await asyncio.wait_for(waiting, LIVE_SECONDS_MAX)).rooms.join[room_id].timeline.events
    assert [(event.event_id, event.body) for event in events] == [(event_id, "Soup!")], events
    assert events[0].sender == alice.user_id
    own = await sync_until(alice, lambda answer: event_id in event_ids(answer, room_id))
    mine = next(event for event in own.rooms.join[room_id].timeline.events if event.event_id == event_id)
    assert mine.transaction_id, "the sender's device is not told its transaction"
    repeated = [await say(alice, room_id, "Once", transaction="only-once") for _ in range(2)]
    assert repeated[0] == repeated[1], "a repeated transaction made a second event"
    seen = await drain(bob)
    assert seen.count(repeated[0]) == 1, seen
    done("a message arrives live, and a repeated one only once")


async def show_typing_and_receipts(alice, bob, room_id):
    succeeded(await bob.room_typing(room_id, True, timeout=10_000))
    await sync_until(alice, lambda _: alice.rooms[room_id].typing_users == [bob.user_id])
    event_id = await say(alice, room_id, "Do you like it?")
    await sync_until(bob, lambda answer: event_id in event_ids(answer, room_id))
    assert bob.rooms[room_id].unread_notifications > 0
    succeeded(await bob.room_read_markers(room_id, event_id, event_id))
    await sync_until(
        alice, lambda _: (receipt := alice.rooms[room_id].read_receipts.get(bob.user_id)) and receipt.event_id == event_id
    )
    await sync_until(bob, lambda _: bob.rooms[room_id].fully_read_marker == event_id)
    assert bob.rooms[room_id].unread_notifications == 0
    done("typing, unread counts, receipts and the read marker arrive")


async def react_edit_and_redact(alice, bob, room_id):
    event_id = await say(alice, room_id, "Wiht bread")
    relation = {"rel_type": "m.annotation", "event_id": event_id, "key": "🍞"}
    succeeded(await bob.room_send(room_id, "m.reaction", {"m.relates_to": relation}))
    await sync_until(alice, lambda answer: any(
        isinstance(event, nio.ReactionEvent) and event.reacts_to == event_id and event.key == "🍞"
        for event in timeline(answer, room_id)
    ))
    edit = {"msgtype": "m.text", "body": "* With bread", "m.new_content": {"msgtype": "m.text", "body": "With bread"}}
    edit["m.relates_to"] = {"rel_type": "m.replace", "event_id": event_id}
    succeeded(await alice.room_send(room_id, "m.room.message", edit))
    fetched = succeeded(await bob.room_get_event(room_id, event_id)).event
    assert fetched.source["unsigned"]["m.relations"]["m.replace"]["content"]["body"] == "* With bread", fetched.source
    succeeded(await alice.room_redact(room_id, event_id, "burnt"))
    await sync_until(bob, lambda answer: any(
        isinstance(event, nio.RedactionEvent) and event.redacts == event_id for event in timeline(answer, room_id)
    ))
    redacted = succeeded(await bob.room_get_event(room_id, event_id)).event
    assert isinstance(redacted, nio.RedactedEvent), redacted
    done("reactions, edits and redactions work")


async def read_history(alice, bob, room_id):
    sent = [await say(alice, room_id, f"line {number}") for number in range(HISTORY_LENGTH)]
    start = (await sync(bob, 0)).next_batch
    found, pages = [], 0
    while len(found) < HISTORY_LENGTH:
        page = succeeded(await bob.room_messages(room_id, start, limit=PAGE_LENGTH, direction=nio.MessageDirection.back))
        assert page.chunk and page.end, page
        found += [event.event_id for event in page.chunk]
        start, pages = page.end, pages + 1
    assert found[:HISTORY_LENGTH] == sent[::-1], "the pages hold other events than were sent, or another order"
    assert pages == -(-HISTORY_LENGTH // PAGE_LENGTH), pages
    while page.end:
        page = succeeded(await bob.room_messages(room_id, page.end, limit=100, direction=nio.MessageDirection.back))
        found += [event.event_id for event in page.chunk]
    assert len(found) == len(set(found)), "an event came twice"
    assert page.chunk == [] or isinstance(page.chunk[-1], nio.RoomCreateEvent), page.chunk[-1]
    context = succeeded(await bob.room_context(room_id, sent[15], limit=4))
    around = [event.event_id for event in [*context.events_before[::-1], context.event, *context.events_after]]
    assert around == sent[13:18], around
    done("history is read page by page to its beginning")


async def share_picture(alice, bob, room_id):
    picture = draw_picture(320, 200)
    uploaded, _ = await alice.upload(lambda *_: io.BytesIO(picture), "image/png", "soup.png", filesize=len(picture))
    address = succeeded(uploaded).content_uri
    content = {"msgtype": "m.image", "body": "soup.png", "url": address, "info": {"mimetype": "image/png"}}
    event_id = succeeded(await alice.room_send(room_id, "m.room.message", content)).event_id
    answer = await sync_until(bob, lambda answer: event_id in event_ids(answer, room_id))
    event = next(event for event in timeline(answer, room_id) if event.event_id == event_id)
    assert isinstance(event, nio.RoomMessageImage)
    download = succeeded(await bob.download(event.url))
    assert download.body == picture and download.content_type == "image/png" and download.filename == "soup.png"
    server, _, media_id = event.url.removeprefix("mxc://").partition("/")
    thumbnail = succeeded(await bob.thumbnail(server, media_id, width=32, height=32))
    assert thumbnail.content_type in ("image/png", "image/jpeg", "image/webp") and 0 < len(thumbnail.body)
    done("a picture is uploaded, downloaded and made small")


async def restore_after_restart(alice, bob, room_id):
    await drain(alice)
    missed = await say(bob, room_id, "Before the restart")
    session = (alice.user_id, alice.device_id, alice.access_token, alice.next_batch)
    await alice.close()
    await asyncio.to_thread(subprocess.run, RESTART_COMMAND, shell=True, check=True, stdout=subprocess.DEVNULL)
    restored = nio.AsyncClient(URL, session[0])
    restored.restore_login(*session[:3])
    restored.next_batch = session[3]
    assert succeeded(await restored.whoami()).device_id == session[1]
    first = await sync(restored, 0, full_state=True)
    assert event_ids(first, room_id) == [missed], "after the restart the sync goes on elsewhere"
    assert sorted(restored.rooms[room_id].users) == sorted([alice.user_id, bob.user_id])
    waiting = asyncio.create_task(sync(restored, LONG_POLL_MS))
    await asyncio.sleep(0.3)
    live = await say(bob, room_id, "After the restart")
    answer = await asyncio.wait_for(waiting, LIVE_SECONDS_MAX)
    assert event_ids(answer, room_id) == [live], answer
    done("the session goes on after a restart, missing and repeating nothing")
    return restored


async def leave_and_log_out(alice, bob, room_id):
    succeeded(await bob.room_leave(room_id))
    await sync_until(alice, lambda _: list(alice.rooms[room_id].users) == [alice.user_id])
    refused = await bob.room_send(room_id, "m.room.message", {"msgtype": "m.text", "body": "Hello?"})
    assert isinstance(refused, nio.RoomSendError) and refused.status_code == "M_FORBIDDEN", refused
    succeeded(await bob.room_forget(room_id))
    token = bob.access_token
    succeeded(await bob.logout())
    bob.access_token = token
    refused = await bob.whoami()
    assert refused.status_code == "M_UNKNOWN_TOKEN", refused
    done("bob leaves, forgets the room and logs out")


async def say(client, room_id, text, transaction=None):
    content = {"msgtype": "m.text", "body": text}
    return succeeded(await client.room_send(room_id, "m.room.message", content, tx_id=transaction)).event_id


async def sync(client, timeout_ms, **options):
    return succeeded(await client.sync(timeout=timeout_ms, **options))


async def sync_until(client, happened):
    """Syncs until `happened(answer)`; an answer that never comes is an error after a few seconds."""
    deadline = time.monotonic() + LIVE_SECONDS_MAX
    while time.monotonic() < deadline:
        answer = await sync(client, 1000)
        if happened(answer):
            return answer
    raise AssertionError(f"{client.user_id} waited in vain")


async def drain(client):
    """Syncs until there is nothing new; returns the events of all timelines."""
    seen = []
    while True:
        answer = await sync(client, 0)
        new = [event.event_id for room in answer.rooms.join.values() for event in room.timeline.events]
        if not new:
            return seen
        seen += new


def timeline(answer, room_id):
    room = answer.rooms.join.get(room_id)
    return room.timeline.events if room else []


def event_ids(answer, room_id):
    return [event.event_id for event in timeline(answer, room_id)]


def succeeded(answer):
    assert not isinstance(answer, nio.ErrorResponse), answer
    return answer


def draw_picture(width, height):
    """A PNG with a colour gradient."""
    rows = b"".join(b"\0" + bytes(v for x in range(width) for v in (x * 255 // width, y * 255 // height, 128)) for y in range(height))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def done(claim):
    print(f"ok: {claim}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
