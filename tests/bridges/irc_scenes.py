"""heisenbridge and ngircd: somebody on IRC and somebody on Matrix talk, while one after the other is restarted.

    irc_scenes.py DIRECTORY BINARY PYTHON NGIRCD     PYTHON has heisenbridge
"""

import socket
import threading
import time
import urllib.request

import house as houses
from house import PATIENCE_SECONDS, PAUSE_SECONDS, SERVER_NAME, Person, done, machine

CONFIGURATION = """\
[Global]
Name = irc.test
Info = Only for tests
Listen = 127.0.0.1
Ports = {port}
MotdPhrase = Welcome
[Limits]
MaxConnectionsIP = 0
MaxNickLength = 20
[Options]
DNS = no
Ident = no
PAM = no
"""
# heisenbridge knows nothing of the power of a room's creators, who stand above all levels from room version 12 on, and
# would not set a topic there.
SETTINGS = """
[rooms]
default_version = "11"
"""
NETWORK, CHANNEL = "testnet", "#hearth"
BOT = f"@heisenbridge:{SERVER_NAME}"
# How heisenbridge marks that a line goes on.
DOTS = "..."


def main(house, python, ngircd):
    irc = IrcServer(house, ngircd)
    bridge = Bridge(house, python)
    alice = Person(house.open_line().url, "alice")
    carol = Chatter(irc.port, "carol")
    carol.send(f"JOIN {CHANNEL}")
    carol.wait_for("she is in the channel", lambda: carol.has_joined("carol"))
    room = open_channel(alice, irc)
    talk(room, alice, carol)
    split_long_lines(room, alice, carol)
    come_and_go(room, alice, carol)
    whisper(alice, carol)
    show_picture(room, alice, carol)
    kill_hearth(house, room, alice, carol)
    restart_bridge(house, bridge, room, alice, carol)
    restart_irc(irc, room, alice, carol)
    check_all(bridge, room, alice, carol)


def open_channel(alice, irc):
    """All that somebody does to get from an account on Matrix into a channel on IRC."""
    control = alice.create(is_direct=True, preset="trusted_private_chat", invite=[BOT])
    alice.wait_for("the bridge's greeting", lambda: notice(alice, control, "Howdy"))
    say_until(alice, control, f"ADDNETWORK {NETWORK}", "Network added.")
    say_until(alice, control, f"ADDSERVER {NETWORK} 127.0.0.1 {irc.port}", "Server added.")
    # Users of the bridge come from a room that nobody sees into the others, by restricted joins.
    say_until(alice, control, "HIDDENROOM --enable", "Hidden room is enabled.")
    alice.say(control, f"OPEN {NETWORK}")
    network = alice.wait_for("the room of the network", lambda: alice.invites[:1])[0]
    alice.accept(network)
    say_until(alice, network, "CONNECT", "Welcome to the Internet Relay Network")
    alice.say(network, "SPACE")
    space = alice.wait_for("the space of the network", lambda: alice.invites[:1])[0]
    alice.accept(space)
    alice.say(network, f"JOIN {CHANNEL}")
    room = alice.wait_for("the room of the channel", lambda: alice.invites[:1])[0]
    alice.accept(room)
    alice.wait_for("the list of names", lambda: notice(alice, room, "Synchronizing members"))
    alice.wait_for("the room to be in the space", lambda: room in children(alice, space))
    assert alice.get(alice.in_room(room, "state/m.room.join_rules/"))["join_rule"] == "restricted"
    done("a room for an IRC channel is opened, and is in a space")
    return room


def talk(room, alice, carol):
    both_talk(room, alice, carol, "at first")
    assert alice.sees_member(room, ghost("carol"))
    assert alice.get(f"/_matrix/client/v3/profile/{houses.quote(ghost('carol'))}/displayname") == {"displayname": "carol"}
    done("they hear each other")


def split_long_lines(room, alice, carol):
    words = " ".join(f"word{number} ü€😀" for number in range(40))
    alice.say(room, words)
    alice.say(room, "two\nlines")
    # The bridge lets long lines pass slowly. Carol need not.
    before = len(alice.lines(room, ghost("carol")))
    burst = [f"line {number} " + "x" * 350 for number in range(20)]
    for line in burst:
        carol.say(line)
    came = alice.wait_for("all lines of a burst", lambda: at_least(alice.lines(room, ghost("carol"))[before:], len(burst)))
    assert [line for _, line in came] == burst, came
    carol.wait_for("the lines after the long one", lambda: carol.heard("alice")[-2:] == ["two", "lines"])
    parts = carol.heard("alice")[:-2]
    assert len(parts) > 1 and all(len(part.encode()) < 512 for part in parts), parts
    assert " ".join(part.removeprefix(DOTS + " ").removesuffix(DOTS) for part in parts) == words, parts
    reactions = [event["content"]["m.relates_to"]["key"] for event in alice.timelines[room] if event["type"] == "m.reaction"]
    assert f"✂ {len(parts)} lines" in reactions, reactions
    carol.forget()
    done("long lines arrive in pieces, and bursts whole")


def come_and_go(room, alice, carol):
    carol.rename("caroline")
    alice.wait_for("the new name's user", lambda: alice.sees_member(room, ghost("caroline")))
    alice.wait_for("the old name's user to go", lambda: not alice.sees_member(room, ghost("carol")))
    both_talk(room, alice, carol, "under another name")
    carol.send(f"PART {CHANNEL} :Tea")
    alice.wait_for("her user to leave", lambda: not alice.sees_member(room, ghost("caroline")))
    carol.send(f"JOIN {CHANNEL}")
    alice.wait_for("her user to come back", lambda: alice.sees_member(room, ghost("caroline")))
    carol.send(f"TOPIC {CHANNEL} :What is for dinner?")
    alice.wait_for("the topic", lambda: state(alice, room, "m.room.topic") == "What is for dinner?")
    done("names, joins and topics are the same on both sides")


def whisper(alice, carol):
    carol.send("PRIVMSG alice :psst")
    room = alice.wait_for("a room for the two", lambda: alice.invites[:1])[0]
    alice.accept(room)
    alice.wait_for("the whisper", lambda: alice.lines(room, ghost("caroline")) == [(ghost("caroline"), "psst")])
    alice.say(room, "yes?")
    carol.wait_for("the answer", lambda: ("alice", "caroline", "yes?") in carol.said)
    done("they whisper")


def show_picture(room, alice, carol):
    """Who is on IRC gets an address, at which the bridge passes on what it fetches from Hearth with its own token."""
    picture = houses.federation.PICTURE
    uploaded = alice.ask("POST", "/_matrix/media/v3/upload?filename=cat.png", None, picture, "image/png")
    content = {"msgtype": "m.image", "body": "cat.png", "url": uploaded["content_uri"]}
    alice.put(alice.in_room(room, "send/m.room.message/picture"), content)
    addresses = carol.wait_for("where the picture is", lambda: carol.heard("alice"))
    with urllib.request.urlopen(addresses[0], timeout=PATIENCE_SECONDS) as answer:
        assert answer.read() == picture, "the picture is another one"
    carol.forget()
    done("a picture can be seen from IRC")


def kill_hearth(house, room, alice, carol):
    """What was said just before is not lost, and what is said meanwhile waits."""
    alice.say(room, "acknowledged just before the end")
    house.kill()
    carol.say("is anybody there")
    carol.say("hello")
    house.start_again()
    alice.wait_for("what carol said meanwhile", lambda: spoken(alice, room, carol)[-2:] == ["is anybody there", "hello"])
    carol.wait_for("what alice said before", lambda: carol.heard("alice")[-1:] == ["acknowledged just before the end"])
    both_talk(room, alice, carol, "after Hearth was killed")
    done("Hearth is killed while they talk, and nothing is lost")


def restart_bridge(house, bridge, room, alice, carol):
    bridge.door.is_open = False
    bridge.program.stop()
    carol.wait_for("alice to leave the channel", lambda: carol.has_gone("alice"))
    for number in range(3):
        alice.say(room, f"while the bridge is away {number}")
    bridge.program.start()
    carol.wait_for("alice to come back", lambda: carol.has_joined("alice"))
    alice.wait_for("the bridge to be in the channel", lambda: notice(alice, room, "Synchronizing members", count=2))
    assert not carol.heard("alice"), carol.heard("alice")
    bridge.door.is_open = True
    # The service is asked, and gets what waited for it.
    house.command("appservice", "ping", "heisenbridge")
    wanted = [f"while the bridge is away {number}" for number in range(3)]
    carol.wait_for("what alice said meanwhile", lambda: carol.heard("alice")[-3:] == wanted)
    both_talk(room, alice, carol, "after the bridge was restarted")
    done("the bridge is restarted while they talk, and nothing is lost")


def restart_irc(irc, room, alice, carol):
    irc.restart()
    carol.connect()
    carol.send(f"JOIN {CHANNEL}")
    carol.wait_for("alice to come back", lambda: carol.has_joined("alice"))
    alice.wait_for("the bridge to be in the channel", lambda: notice(alice, room, "Synchronizing members", count=3))
    both_talk(room, alice, carol, "after IRC was restarted")
    done("IRC is restarted while they talk")


def check_all(bridge, room, alice, carol):
    """Over all that happened: each event came to the bridge once and in order, and each line to both people."""
    own = [event for event in alice.messages(room) if event["sender"] == alice.id]
    bridge.door.check([event["event_id"] for event in own])
    for lines in (carol.all_heard, spoken(alice, room, carol)):
        assert len(lines) == len(set(lines)), f"twice: {[line for line in lines if lines.count(line) > 1]}"
    assert spoken(alice, room, carol) == carol.all_said, (spoken(alice, room, carol), carol.all_said)
    done("nothing was lost, and nothing came twice")


class IrcServer:
    def __init__(self, house, ngircd):
        self.port = machine.free_port()
        configuration = house.directory / "ngircd.conf"
        configuration.write_text(CONFIGURATION.format(port=self.port))
        self.program = house.add_program("ngircd", [ngircd, "--nodaemon", "--config", configuration])
        self.start()

    def start(self):
        self.program.start()
        self.program.wait_for("it listens", self.is_listening)

    def is_listening(self):
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", self.port)) == 0

    def restart(self):
        self.program.stop()
        self.start()


class Bridge:
    """heisenbridge, registered with the file that it makes itself."""

    def __init__(self, house, python):
        port = machine.free_port()
        self.door = house.open_door(port)
        registration = house.directory / "registration.yaml"
        command = [python, "-m", "heisenbridge", "--config", registration]
        door_port = self.door.url.rpartition(":")[2]
        machine.run_quietly([*command, "--generate", "--listen-port", door_port], cwd=house.directory)
        with open(registration, "a") as file:
            # A setting of its own: where others find the files that it passes on.
            file.write(f"heisenbridge:\n  media_url: http://127.0.0.1:{port}\n")
        house.command("appservice", "add", registration)
        command += ["--verbose", "--listen-port", str(port), house.open_line().url]
        self.program = house.add_program("bridge", command)
        self.program.start("bridge is now running")


class Chatter:
    """Somebody on IRC with the simplest of clients."""

    def __init__(self, port, nick):
        self.port, self.nick = port, nick
        # What others have said (who, to whom, what) and done (who, what), since the last look.
        self.said, self.deeds = [], []
        self.all_heard, self.all_said = [], []
        self.connect()

    def connect(self):
        self.forget()
        self.socket = socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS)
        self.socket.settimeout(None)
        lines = self.socket.makefile(encoding="utf-8", newline="\r\n")
        threading.Thread(target=self.listen, args=(lines,), daemon=True).start()
        self.send(f"NICK {self.nick}")
        self.send(f"USER {self.nick} 0 * :{self.nick}")
        self.wait_for("IRC to welcome her", lambda: ("irc.test", "001") in self.deeds)

    def send(self, line):
        self.socket.sendall(f"{line}\r\n".encode())

    def say(self, text):
        self.all_said.append(text)
        self.send(f"PRIVMSG {CHANNEL} :{text}")

    def rename(self, nick):
        self.nick = nick
        self.send(f"NICK {nick}")

    def listen(self, lines):
        try:
            for line in lines:
                self.take(line.rstrip("\r\n"))
        except OSError:
            pass

    def take(self, line):
        source, _, rest = line[1:].partition(" ") if line.startswith(":") else ("", "", line)
        nick, (command, _, rest) = source.partition("!")[0], rest.partition(" ")
        words, _, text = f" {rest}".partition(" :")
        words = words.split()
        if command == "PING":
            self.send(f"PONG :{text or words[0]}")
        elif command == "PRIVMSG":
            self.said.append((nick, words[0], text))
            if words[0] == CHANNEL:
                self.all_heard.append(text)
        else:
            self.deeds.append((nick, command))

    def heard(self, nick):
        """What somebody has said in the channel since the last look."""
        return [text for who, to, text in self.said if (who, to) == (nick, CHANNEL)]

    def has_joined(self, nick):
        return (nick, "JOIN") in self.deeds

    def has_gone(self, nick):
        return (nick, "QUIT") in self.deeds

    def forget(self):
        self.said, self.deeds = [], []

    def wait_for(self, what, check):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := check()):
            assert time.monotonic() < deadline, f"{self.nick} on IRC, not within {PATIENCE_SECONDS} s: {what}"
            time.sleep(PAUSE_SECONDS)
        return found


def both_talk(room, alice, carol, when):
    """One line each way; what was heard before is forgotten."""
    alice.say(room, f"alice {when}")
    carol.wait_for("what alice says", lambda: carol.heard("alice")[-1:] == [f"alice {when}"])
    carol.say(f"carol {when}")
    alice.wait_for("what carol says", lambda: spoken(alice, room, carol)[-1:] == [f"carol {when}"])
    carol.forget()


def spoken(alice, room, carol):
    """What carol has said in the room, under whatever name."""
    names = (ghost("carol"), ghost("caroline"))
    return [line for who, line in alice.lines(room) if who in names]


def say_until(alice, room, command, answer):
    alice.say(room, command)
    alice.wait_for(f"«{answer}»", lambda: notice(alice, room, answer))


def notice(alice, room, text, count=1):
    return sum(text in line for _, line in alice.lines(room, BOT)) >= count


def children(alice, space):
    listed = alice.get(f"/_matrix/client/v1/rooms/{houses.quote(space)}/hierarchy")["rooms"]
    return {entry["room_id"] for entry in listed} - {space}


def state(alice, room, kind):
    try:
        return alice.get(alice.in_room(room, f"state/{kind}/"))["topic"]
    except houses.federation.Refused:
        return None


def at_least(lines, count):
    return lines if len(lines) >= count else None


def ghost(nick):
    return f"@irc_{NETWORK}_{nick}:{SERVER_NAME}"


if __name__ == "__main__":
    houses.play(main, SETTINGS)
