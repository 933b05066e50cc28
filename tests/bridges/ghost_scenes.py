"""A small bridge built on matrix-appservice-bridge: people of a remote network, which is these scenes, have ghosts on
Hearth and talk with somebody there, while Hearth is killed.

    ghost_scenes.py DIRECTORY BINARY
"""

import threading

import house as houses
from house import HERE, SERVER_NAME, Person, done, machine, quote

REMOTE_PEOPLE = ["carol", "dave", "erin"]
BURST = 24
# Where in the burst Hearth is killed.
KILL_AFTER = 6


def main(house):
    bridge, door = start_bridge(house)
    alice = Person(house.open_line().url, "alice")
    room = open_room(alice)
    talk(bridge, room, alice)
    kill_while_the_remote_side_talks(house, bridge, room, alice)
    kill_while_the_local_side_talks(house, bridge, room, alice)
    own = [event["event_id"] for event in alice.messages(room) if event["sender"] == alice.id]
    door.check(own)
    assert [report["event_id"] for report in bridge.reports() if report.get("sender") == alice.id] == own
    done("nothing was lost, and nothing came twice")


def start_bridge(house):
    port = machine.free_port()
    door = house.open_door(port)
    registration = house.directory / "registration.yaml"
    environment = {
        "BRIDGE_HOMESERVER": house.open_line().url,
        "BRIDGE_DOMAIN": SERVER_NAME,
        "BRIDGE_PORT": str(port),
        "BRIDGE_REGISTRATION": str(registration),
        "BRIDGE_URL": door.url,
    }
    program = HERE / "js" / "bridge.js"
    machine.run_quietly(["node", program, "register"], env={**machine.environment_without_settings(), **environment})
    house.command("appservice", "add", registration)
    bridge = house.add_program("bridge", ["node", program, "run"], environment)
    bridge.start('{"ready":true}')
    return bridge, door


def open_room(alice):
    """Rooms and people of the remote network come to be when they are asked for."""
    room = alice.join(f"#remote_lobby:{SERVER_NAME}", SERVER_NAME)["room_id"]
    assert alice.get(alice.in_room(room, "state/m.room.name/")) == {"name": "lobby"}
    profile = alice.get(f"/_matrix/client/v3/profile/{quote(ghost('zoe'))}")
    assert profile["displayname"] == "zoe (remote)", profile
    done("a room and a user are made on demand")
    return room


def talk(bridge, room, alice):
    for name in REMOTE_PEOPLE:
        bridge.order(room=room, name=name, text=f"I am {name}")
    wanted = [(ghost(name), f"I am {name}") for name in REMOTE_PEOPLE]
    alice.wait_for("everybody remote", lambda: alice.lines(room) == wanted)
    members = alice.get(alice.in_room(room, "joined_members"))["joined"]
    assert {members[ghost(name)]["display_name"] for name in REMOTE_PEOPLE} == set(REMOTE_PEOPLE), members
    alice.say(room, "Nice to meet you")
    bridge.wait_for("what alice says", lambda: heard(bridge, alice) == ["Nice to meet you"])
    alice.wait_for("her own words", lambda: alice.lines(room, alice.id))
    done("each remote person has a ghost, and they hear each other")


def kill_while_the_remote_side_talks(house, bridge, room, alice):
    before = len(alice.lines(room))
    wanted = []
    for number in range(BURST):
        name = REMOTE_PEOPLE[number % len(REMOTE_PEOPLE)]
        bridge.order(room=room, name=name, text=f"remote {number}")
        wanted.append((ghost(name), f"remote {number}"))
    alice.wait_for("the beginning of a burst", lambda: len(alice.lines(room)) >= before + KILL_AFTER)
    house.kill()
    house.start_again()
    alice.wait_for("the whole burst", lambda: len(alice.lines(room)) >= before + BURST)
    assert alice.lines(room)[before:] == wanted, alice.lines(room)[before:]
    done("Hearth is killed while the remote side talks, and all of it arrives once")


def kill_while_the_local_side_talks(house, bridge, room, alice):
    before = len(heard(bridge, alice))
    speaking = threading.Thread(target=lambda: [alice.say(room, f"local {number}") for number in range(BURST)])
    speaking.start()
    bridge.wait_for("the beginning of a burst", lambda: len(heard(bridge, alice)) >= before + KILL_AFTER)
    house.kill()
    house.start_again()
    speaking.join()
    bridge.wait_for("the whole burst", lambda: len(heard(bridge, alice)) >= before + BURST)
    assert heard(bridge, alice)[before:] == [f"local {number}" for number in range(BURST)], heard(bridge, alice)
    alice.wait_for("her own words", lambda: len(alice.lines(room, alice.id)) >= before + BURST)
    done("Hearth is killed while the local side talks, and all of it arrives once")


def heard(bridge, person):
    """What the remote side has heard somebody say."""
    return [report["text"] for report in bridge.reports() if report.get("sender") == person.id]


def ghost(name):
    return f"@remote_{name}:{SERVER_NAME}"


if __name__ == "__main__":
    houses.play(main)
