"""The house that bridges and bots live in: a Hearth, people in it, and the programs and lines beside it.

Not for what one program alone needs; that stands in its scenes.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.parse

from lines import Door, Line

HERE = pathlib.Path(__file__).resolve().parent
PEERS = HERE.parent / "peers"
sys.path.insert(0, str(PEERS))
sys.dont_write_bytecode = True
import machine  # noqa: E402  (the folder has only just become known)

federation = machine.load_script(PEERS / "federation")
quote = federation.quote

PATIENCE_SECONDS = 30
PAUSE_SECONDS = 0.05
ASK_AGAIN_SECONDS = 3
LISTEN_MS = 500
FILTER = json.dumps({"room": {"timeline": {"limit": 200}}})
SERVER_NAME = "localhost"


class House:
    """A Hearth of its own in a directory of its own."""

    def __init__(self, directory, binary, settings=""):
        self.directory, self.binary, self.place = directory, binary, directory / "hearth"
        self.programs, self.lines = [], []
        database = os.environ.get("HEARTH_DATABASE", "sqlite")
        made = machine.run_quietly([PEERS / "hearth", "configure", self.place, "--binary", binary, "--database", database])
        facts = dict(line.split("=", 1) for line in made.splitlines())
        self.url = facts["url"]
        with open(self.place / "hearth.toml", "a") as configuration:
            configuration.write(settings)
        machine.start_server(self.place, facts["command"].split(), f"{self.url}/_matrix/client/versions")

    def kill(self):
        """kill -9, in the middle of whatever it does."""
        os.kill(machine.load_plan(self.place)["pid"], signal.SIGKILL)
        machine.wait_until_ended(self.place)

    def start_again(self):
        machine.restart_server(self.place)

    def command(self, *words):
        words = [self.binary, *words, "--config", self.place / "hearth.toml"]
        return machine.run_quietly(words, env=machine.environment_without_settings())

    def open_line(self):
        """A line to Hearth that waits while Hearth is away."""
        self.lines.append(Line(self.url))
        return self.lines[-1]

    def open_door(self, port):
        """The line from Hearth to a service on a port."""
        self.lines.append(Door(f"http://127.0.0.1:{port}"))
        return self.lines[-1]

    def add_program(self, name, argv, environment=None):
        self.programs.append(Program(self.directory, name, argv, environment or {}))
        return self.programs[-1]

    def close(self):
        for program in self.programs:
            program.end()
        machine.stop_server(self.place)
        for line in self.lines:
            line.close()

    def show_logs(self):
        for log in [self.place / "log", *(program.log for program in self.programs)]:
            if log.exists():
                print(f"--- {log.name} of {log.parent.name} said:\n{machine.tail(log)}---", flush=True)


class Program:
    """A bridge, a bot or a server beside Hearth. It can be asked to end, and started again with what it kept; what
    it reports are lines of JSON."""

    def __init__(self, directory, name, argv, environment):
        self.directory, self.name, self.argv = directory, name, [str(word) for word in argv]
        self.log, self.process, self.began = directory / f"{name}.log", None, 0
        own = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **environment}
        self.environment = {**machine.environment_without_settings(), **own}

    def start(self, until=None):
        """Starts it, and waits until it has said something."""
        self.began = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        if until:
            self.wait_for(f"«{until}»", lambda: until in self.output())

    def output(self):
        """What it has said since it was last started."""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            log.seek(self.began)
            return log.read()

    def reports(self):
        """All that it has ever reported."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"') and line.endswith("}")]

    def order(self, **words):
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def wait_for(self, what, check):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := check()):
            assert self.process.poll() is None, f"{self.name} ended with status {self.process.returncode}"
            assert time.monotonic() < deadline, f"{self.name}, not within {PATIENCE_SECONDS} s: {what}"
            time.sleep(PAUSE_SECONDS)
        return found

    def stop(self):
        """Asks it to end, as a service manager does; and again, since the interrupt of a Python program can get lost."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.process.terminate()
            try:
                return self.process.wait(timeout=ASK_AGAIN_SECONDS)
            except subprocess.TimeoutExpired:
                assert time.monotonic() < deadline, f"{self.name} does not end"

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Person(federation.User):
    """Somebody whose client listens by and by, as clients do."""

    def __init__(self, url, name):
        super().__init__(url, name)
        self.since, self.timelines, self.invites = None, {}, []

    def listen(self):
        query = {"filter": FILTER, "timeout": LISTEN_MS if self.since else 0}
        if self.since:
            query["since"] = self.since
        answer = self.get("/_matrix/client/v3/sync?" + urllib.parse.urlencode(query))
        self.since = answer["next_batch"]
        rooms = answer.get("rooms", {})
        self.invites += [room for room in rooms.get("invite", {}) if room not in self.invites]
        for room, news in rooms.get("join", {}).items():
            self.timelines.setdefault(room, []).extend(news.get("timeline", {}).get("events", []))

    def wait_for(self, what, check):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := check()):
            assert time.monotonic() < deadline, f"{self.id}, not within {PATIENCE_SECONDS} s: {what}"
            self.listen()
        return found

    def messages(self, room):
        """All messages that the client was given, in order. None may come twice."""
        messages = [event for event in self.timelines.get(room, []) if event["type"] == "m.room.message"]
        ids = [event["event_id"] for event in messages]
        assert len(ids) == len(set(ids)), "the client was given a message twice"
        return messages

    def lines(self, room, sender=None):
        """Who said what in a room, line by line."""
        said = [(event["sender"], event["content"]["body"]) for event in self.messages(room)]
        return [(who, line) for who, body in said for line in body.split("\n") if sender in (None, who)]

    def accept(self, room):
        self.invites.remove(room)
        self.join(room, SERVER_NAME)

    def sees_member(self, room, user):
        return self.membership(room, user) == "join"


def play(scenes, settings=""):
    """Runs `scenes(house, *tools)` in a house of its own, with further settings: PROGRAM DIRECTORY BINARY [TOOL …]."""
    directory, binary, *tools = sys.argv[1:]
    house = House(pathlib.Path(directory), pathlib.Path(binary), settings)
    try:
        scenes(house, *tools)
    except BaseException:
        house.show_logs()
        raise
    finally:
        house.close()


def done(claim):
    print(f"ok: {claim}", flush=True)
