"""Devices come and go, and messages are sent, while one of two servers that share an encrypted room is away: when it
is back, everybody knows the true devices and can read everything.

Reads HEARTH_URL and HEARTH_PEER_URL (two servers; registration is open there), and for each a shell command that
stops it and one that starts it: HEARTH_STOP_COMMAND, HEARTH_START_COMMAND, HEARTH_PEER_STOP_COMMAND,
HEARTH_PEER_START_COMMAND. Ends with status 1 at the first thing that is wrong.
"""

import asyncio
import os
import pathlib
import subprocess
import tempfile

from encrypt import PEER_URL, URL, House, done, knows, open_room, say, succeeded


async def main():
    with tempfile.TemporaryDirectory() as stores:
        house = House(pathlib.Path(stores))
        try:
            alice = await house.register("alice", URL)
            bob = await house.register("bob", PEER_URL)
            room_id = await open_room(alice, bob)
            await house.talk(room_id, alice, bob)
            await change_while_away(house, room_id, (alice, URL), (bob, PEER_URL), "HEARTH_PEER")
            await change_while_away(house, room_id, (bob, PEER_URL), (alice, URL), "HEARTH")
        finally:
            for device in house.devices:
                await device.client.close()


async def change_while_away(house, room_id, here, away, prefix):
    """While the server of `away` is stopped, who is `here` logs in anew, logs an older device out, and speaks."""
    (speaker, url), (listener, _) = here, away
    old = await house.log_in(speaker.client.user_id, url)
    await house.say_to_all(room_id, listener, "Before the outage")
    everybody = house.devices
    run_command(f"{prefix}_STOP_COMMAND")
    house.devices = [device for device in everybody if device.client.user_id == speaker.client.user_id]
    succeeded(await old.client.logout())
    await old.client.close()
    house.devices.remove(old)
    new = await house.log_in(speaker.client.user_id, url)
    await house.until(lambda: knows(speaker, new), "the new device")
    texts = [f"{number} during the outage" for number in range(3)]
    event_ids = [await say(speaker, room_id, text) for text in texts]
    await house.until(lambda: all(new.heard.get(event_id) for event_id in event_ids), "what was said here")
    run_command(f"{prefix}_START_COMMAND")
    house.devices = [device for device in everybody if device is not old] + [new]
    # Whoever was away says first that it is back: others may have given it up for a while.
    await say(listener, room_id, "Who is there?")
    await house.until(lambda: all(listener.heard.get(event_id) for event_id in event_ids), "what was said meanwhile")
    await house.say_to_all(room_id, listener, "After the outage")
    await house.say_to_all(room_id, new, "From the new device")
    done(f"devices changed while {prefix} was away, and everybody knows them")


def run_command(name):
    subprocess.run(os.environ[name], shell=True, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    asyncio.run(main())
