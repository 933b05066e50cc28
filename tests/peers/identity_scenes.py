"""The scenes of `identity`, run by a Python that has Sydent and aiosmtpd.

    identity_scenes.py DIRECTORY HEARTH [SCENE …]     DIRECTORY has ca.pem and the certificates

Not for what an integration test can show without other programs.
"""

import asyncio
import email
import json
import os
import pathlib
import queue
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
import machine  # noqa: E402  (the folder has only just become known)

PATIENCE_SECONDS = 20
PAUSE_SECONDS = 0.1
MAIL_LOGIN = ("hearth", "only for tests")
CONFIGURATION = """
[mail]
server = "127.0.0.1"
port = {mail_port}
tls = "starttls"
login = "hearth"
password = "only for tests"
from = "Hearth <hearth@example.org>"

[identity_servers]
trusted = ["{identity}"]
"""
SYDENT = """
[general]
server.name = {name}
log.level = INFO
templates.path = {directory}/templates
brand.default = plain
ip.whitelist = 127.0.0.0/8
pidfile.path = {directory}/sydent.pid

[db]
db.file = {directory}/sydent.db

[http]
clientapi.http.bind_address = 127.0.0.1
clientapi.http.port = {port}
replication.https.port = 0
federation.verifycerts = False
client_http_base = https://{name}

[email]
email.from = sydent@example.org
email.smtphost = 127.0.0.1
email.smtpport = {mail_port}
email.hostname = localhost
"""
TEMPLATES = {
    "verification_template.eml.j2": "To: {{ to }}\nSubject: Confirm\n\n{{ link }}\n",
    "invite_template.eml.j2": "To: {{ to }}\nSubject: Invitation\n\n{{ sender_display_name }} {{ room_name }}\n",
    "verify_response_template.html": "%(message)s",
}


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status, body):
        super().__init__(f"{status} {body}")
        self.status, self.errcode = status, body.get("errcode") if isinstance(body, dict) else None


class Mailbox:
    """Keeps the mails by address. One door for Hearth, encrypted and with a login, and one for Sydent."""

    def __init__(self, directory):
        self.mails = queue.Queue()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "mail.pem", directory / "mail.key")
        careful = {"tls_context": context, "require_starttls": True, "auth_required": True, "authenticator": check_login}
        self.ports = [machine.free_port(), machine.free_port()]
        self.doors = [
            Controller(self, "127.0.0.1", self.ports[0], **careful),
            Controller(self, "127.0.0.1", self.ports[1]),
        ]
        for door in self.doors:
            door.start()

    async def handle_DATA(self, server, session, envelope):  # noqa: N802  (aiosmtpd names it)
        self.mails.put((envelope.rcpt_tos[0], email.message_from_bytes(envelope.content)))
        return "250 kept"

    def read(self, address):
        """The text of the next mail, which must be to this address."""
        to, mail = self.mails.get(timeout=PATIENCE_SECONDS)
        assert to == address, (to, address)
        parts = [part for part in mail.walk() if part.get_content_type() == "text/plain"]
        return parts[0].get_payload(decode=True).decode()

    def link(self, address):
        return re.search(r"https?://\S+", self.read(address)).group()

    def stop(self):
        for door in self.doors:
            door.stop()


def check_login(server, session, envelope, mechanism, auth_data):
    given = auth_data if isinstance(auth_data, LoginPassword) else LoginPassword(b"", b"")
    return AuthResult(success=(given.login.decode(), given.password.decode()) == MAIL_LOGIN)


class Sydent:
    """The identity server, and the encrypted door in front of it, as a reverse proxy is in real life."""

    def __init__(self, directory, mail_port):
        self.name = f"127.0.0.1:{machine.free_port()}"
        port = machine.free_port()
        templates = directory / "templates" / "plain"
        templates.mkdir(parents=True)
        for name, text in TEMPLATES.items():
            (templates / name).write_text(text)
        configuration = directory / "sydent.conf"
        configuration.write_text(SYDENT.format(name=self.name, directory=directory, port=port, mail_port=mail_port))
        self.log = directory / "sydent.log"
        with open(self.log, "wb") as log:
            environment = {**os.environ, "SYDENT_CONF": str(configuration)}
            command = [sys.executable, "-m", "sydent.sydent"]
            self.process = subprocess.Popen(
                command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        machine.wait_until_ready(self.process, f"http://127.0.0.1:{port}/_matrix/identity/versions", self.log)
        self.context = ssl.create_default_context(cafile=directory / "ca.pem")
        self.is_open = threading.Event()
        threading.Thread(target=asyncio.run, args=(self.encrypt(directory, port),), daemon=True).start()
        assert self.is_open.wait(PATIENCE_SECONDS), "the encrypted door did not open"

    async def encrypt(self, directory, port):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "identity.pem", directory / "identity.key")
        context.set_alpn_protocols(["http/1.1"])

        async def pass_on(reader, writer):
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

        host, _, own_port = self.name.partition(":")
        server = await asyncio.start_server(pass_on, host, int(own_port), ssl=context)
        self.is_open.set()
        await server.serve_forever()

    def ask(self, path, body=None, token=None):
        return ask(f"https://{self.name}/_matrix/identity/v2{path}", body, token, self.context)

    def log_in(self, user):
        """An access token of a Matrix user, who is asked for at their own server."""
        path = f"/_matrix/client/v3/user/{quote(user.id)}/openid/request_token"
        return self.ask("/account/register", user.post(path))["token"]

    def prove(self, mailbox, token, address, secret):
        """Has an address proven here; the session."""
        body = {"email": address, "client_secret": secret, "send_attempt": 1}
        sid = self.ask("/validate/email/requestToken", body, token)["sid"]
        urllib.request.urlopen(mailbox.link(address), context=self.context).close()
        return {"sid": sid, "client_secret": secret, "id_server": self.name, "id_access_token": token}

    def find(self, token, address):
        """Whose address it is, without hashes."""
        pepper = self.ask("/hash_details", None, token)["lookup_pepper"]
        body = {"algorithm": "none", "pepper": pepper, "addresses": [f"{address} email"]}
        return self.ask("/lookup", body, token)["mappings"].get(f"{address} email")

    def stop(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.close()


class Person:
    """Somebody with an account."""

    def __init__(self, url, name):
        self.url, self.token = url, None
        body = {"username": name, "password": "only for tests", "auth": {"type": "m.login.dummy"}}
        answer = self.post("/_matrix/client/v3/register", body)
        self.token, self.id = answer["access_token"], answer["user_id"]

    def get(self, path):
        return ask(self.url + path, None, self.token)

    def post(self, path, body=None):
        return ask(self.url + path, body or {}, self.token)

    def room_path(self, room, rest):
        return f"/_matrix/client/v3/rooms/{quote(room)}/{rest}"

    def membership(self, room, user):
        try:
            return self.get(self.room_path(room, f"state/m.room.member/{quote(user)}"))["membership"]
        except Refused as error:
            return error.errcode

    def invites(self):
        return self.get("/_matrix/client/v3/sync").get("rooms", {}).get("invite", {})


def ask(url, body, token, context=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read()
        try:
            raise Refused(error.code, json.loads(text)) from None
        except ValueError:
            raise Refused(error.code, text) from None


def quote(text):
    return urllib.parse.quote(text, safe="")


def until(what, check):
    deadline = time.monotonic() + PATIENCE_SECONDS
    last = None
    while time.monotonic() < deadline:
        last = check()
        if last:
            return last
        time.sleep(PAUSE_SECONDS)
    raise AssertionError(f"not within {PATIENCE_SECONDS} s: {what} (last: {last})")


def confirm(link, url):
    """Follows a link of Hearth, and clicks the button of the page."""
    query = link.partition("?")[2]
    place = f"{url}{urllib.parse.urlsplit(link).path}"
    assert b"<form" in urllib.request.urlopen(f"{place}?{query}").read()
    urllib.request.urlopen(place, query.encode()).close()


def mail(scene):
    """Hearth's own mails, through a server that wants encryption and a login."""
    alice = Person(scene.urls["one"], "mail-alice")
    body = {"email": "alice.mail@example.org", "client_secret": "s3cret", "send_attempt": 1}
    sid = alice.post("/_matrix/client/v3/account/3pid/email/requestToken", body)["sid"]
    confirm(scene.mailbox.link("alice.mail@example.org"), alice.url)
    alice.post("/_matrix/client/v3/account/3pid", {"three_pid_creds": {"sid": sid, "client_secret": "s3cret"}})
    ids = alice.get("/_matrix/client/v3/account/3pid")["threepids"]
    assert [entry["address"] for entry in ids] == ["alice.mail@example.org"], ids


def bind(scene):
    """A user publishes an address, and takes it back."""
    alice = Person(scene.urls["one"], "bind-alice")
    token = scene.sydent.log_in(alice)
    creds = scene.sydent.prove(scene.mailbox, token, "alice.bind@example.org", "bind-secret")
    alice.post("/_matrix/client/v3/account/3pid/bind", creds)
    assert scene.sydent.find(token, "alice.bind@example.org") == alice.id
    gone = {"medium": "email", "address": "alice.bind@example.org"}
    answer = alice.post("/_matrix/client/v3/account/3pid/unbind", gone)
    assert answer == {"id_server_unbind_result": "success"}, answer
    assert scene.sydent.find(token, "alice.bind@example.org") is None
    try:
        alice.post("/_matrix/client/v3/account/3pid/bind", {**creds, "sid": "999"})
        raise AssertionError("an unknown session was bound")
    except Refused as error:
        assert error.errcode == "M_NO_VALID_SESSION", error


def invite_known(scene):
    """An address that is somebody's leads to this user, here a user of another server."""
    alice, bob = Person(scene.urls["one"], "known-alice"), Person(scene.urls["two"], "known-bob")
    token = scene.sydent.log_in(bob)
    creds = scene.sydent.prove(scene.mailbox, token, "bob.known@example.org", "known-secret")
    bob.post("/_matrix/client/v3/account/3pid/bind", creds)
    room = alice.post("/_matrix/client/v3/createRoom", {"name": "Known"})["room_id"]
    alice.post(alice.room_path(room, "invite"), scene.invitation(alice, "bob.known@example.org"))
    until("Bob is invited", lambda: room in bob.invites())


def invite_unknown(scene, inviter="one", invitee="two"):
    """An invitation waits until the address is somebody's, and becomes one of this user."""
    name = f"{inviter}-{invitee}"
    alice, bob = Person(scene.urls[inviter], f"wait-alice-{name}"), Person(scene.urls[invitee], f"wait-bob-{name}")
    address = f"bob.{name}@example.org"
    room = alice.post("/_matrix/client/v3/createRoom", {"name": "Waiting"})["room_id"]
    alice.post(alice.room_path(room, "invite"), scene.invitation(alice, address))
    assert "Waiting" in scene.mailbox.read(address)
    state = alice.get(alice.room_path(room, "state"))
    waiting = [event for event in state if event["type"] == "m.room.third_party_invite"]
    assert len(waiting) == 1 and address not in json.dumps(waiting), waiting
    token = scene.sydent.log_in(bob)
    creds = scene.sydent.prove(scene.mailbox, token, address, f"wait-{name}")
    bob.post("/_matrix/client/v3/account/3pid/bind", creds)
    until("Bob is invited", lambda: room in bob.invites())
    assert alice.membership(room, bob.id) == "invite"
    via = quote(alice.id.partition(":")[2])
    bob.post(f"/_matrix/client/v3/join/{quote(room)}?via={via}")
    until("Bob is in", lambda: alice.membership(room, bob.id) == "join")


def invite_unknown_of_own_server(scene):
    """The same where both are users of one server."""
    invite_unknown(scene, "one", "one")


SCENES = {scene.__name__: scene for scene in (mail, bind, invite_known, invite_unknown, invite_unknown_of_own_server)}


class Scene:
    """What all scenes share."""

    def __init__(self, directory, binary):
        self.directory, self.mailbox, self.places, self.urls = directory, Mailbox(directory), [], {}
        self.sydent = Sydent(directory, self.mailbox.ports[1])
        for name in ("one", "two"):
            self.urls[name] = self.start(name, binary)

    def start(self, name, binary):
        """A Hearth that sends mails and trusts the identity server."""
        place = self.directory / f"hearth-{name}"
        files = ["--ca", "ca.pem", "--certificate", f"{name}.pem", "--key", f"{name}.key"]
        files = [word if word.startswith("--") else self.directory / word for word in files]
        hearth = pathlib.Path(__file__).parent / "hearth"
        server_name = f"127.0.0.1:{machine.free_port()}"
        made = [hearth, "configure", place, "--binary", binary, "--server-name", server_name, *files]
        facts = dict(line.split("=", 1) for line in machine.run_quietly(made).splitlines())
        with open(place / "hearth.toml", "a") as configuration:
            configuration.write(CONFIGURATION.format(mail_port=self.mailbox.ports[0], identity=self.sydent.name))
        machine.start_server(place, facts["command"].split(), f"{facts['url']}/_matrix/client/versions")
        self.places.append(place)
        return facts["url"]

    def invitation(self, inviter, address):
        token = self.sydent.log_in(inviter)
        return {"medium": "email", "address": address, "id_server": self.sydent.name, "id_access_token": token}

    def stop(self):
        self.sydent.stop()
        self.mailbox.stop()
        for place in self.places:
            machine.stop_server(place)

    def show_logs(self):
        for log in [self.sydent.log, *(place / "log" for place in self.places)]:
            print(f"--- {log.parent.name}/{log.name} said:\n{machine.tail(log)}---", flush=True)


def main(directory, binary, *names):
    if unknown := set(names) - set(SCENES):
        raise machine.MachineError(f"there is no scene {', '.join(sorted(unknown))}, only {', '.join(SCENES)}")
    scene, failed = Scene(pathlib.Path(directory), binary), []
    try:
        for name in names or SCENES:
            began = time.monotonic()
            try:
                SCENES[name](scene)
                verdict = "passed"
            except Exception:  # noqa: BLE001  (whatever it is, the other scenes are still played)
                traceback.print_exc()
                failed.append(name)
                verdict = "FAILED"
            print(f"--- {name}: {verdict} in {time.monotonic() - began:.1f} s", flush=True)
        if failed:
            scene.show_logs()
    finally:
        scene.stop()
    print(f"identity: {len(names or SCENES) - len(failed)} scenes passed, {len(failed)} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    machine.main(lambda: main(*sys.argv[1:]))
