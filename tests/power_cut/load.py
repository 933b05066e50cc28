"""People who talk and send files, and the questions that find out whether anything of it is missing."""

import concurrent.futures
import json
import random
import urllib.error
import urllib.parse
import urllib.request

WRITERS = 4
MESSAGES = 60
# Small enough to be kept in memory while they arrive, and large enough to be written in pieces.
FILE_BYTES = [1, 700, 5_000, 40_000, 300_000, 1_500_000]
CLIENT = "/_matrix/client/v3"


class Load:
    def __init__(self, url):
        self.url = url
        self.tokens = []
        self.room = ""
        # What was uploaded, by its address.
        self.files = {}

    def run(self):
        for number in range(WRITERS):
            self.tokens.append(self.register(f"writer{number}"))
        self.room = self.call("POST", f"{CLIENT}/createRoom", self.tokens[0], {"preset": "public_chat"})["room_id"]
        for token in self.tokens[1:]:
            self.call("POST", f"{CLIENT}/rooms/{self.room}/join", token, {})
        with concurrent.futures.ThreadPoolExecutor(WRITERS + 1) as pool:
            working = [pool.submit(self.talk, number) for number in range(WRITERS)]
            working.append(pool.submit(self.upload))
            for work in working:
                work.result()

    def register(self, name):
        body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        return self.call("POST", f"{CLIENT}/register", None, body)["access_token"]

    def talk(self, number):
        for count in range(MESSAGES):
            path = f"{CLIENT}/rooms/{self.room}/send/m.room.message/{number}-{count}"
            body = {"msgtype": "m.text", "body": f"message {count} " + "and so on " * (count % 40)}
            self.call("PUT", path, self.tokens[number], body)
            if count % 10 == 0:
                path = f"{CLIENT}/user/@writer{number}:localhost/account_data/notes"
                self.call("PUT", path, self.tokens[number], {"count": count})

    def upload(self):
        dice = random.Random(1)
        for size in FILE_BYTES:
            content = dice.randbytes(size)
            answer = self.call("POST", "/_matrix/media/v3/upload", self.tokens[0], content)
            self.files[answer["content_uri"]] = content

    def call(self, method, path, token, body=None):
        return json.loads(self.fetch(method, path, token, body))

    def fetch(self, method, path, token, body=None):
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + urllib.parse.quote(path, safe="/?=&%"), data, method=method)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error


def check(load, promised):
    """Holds a server that was started after a power cut to what was promised before."""
    for token in promised.tokens:
        load.call("GET", f"{CLIENT}/account/whoami", token)
    if promised.events:
        found = list_events(load)
        missing = promised.events - set(found)
        assert not missing, f"of {len(promised.events)} messages {len(missing)} are missing, such as {sorted(missing)[0]}"
        assert len(found) == len(set(found)), "a message is there twice"
        path = f"{CLIENT}/rooms/{load.room}/send/m.room.message/after"
        load.call("PUT", path, load.tokens[0], {"msgtype": "m.text", "body": "the lights are on again"})
    for address in promised.media:
        path = "/_matrix/client/v1/media/download/" + address.removeprefix("mxc://")
        content = load.fetch("GET", path, load.tokens[0])
        assert content == load.files[address], f"{address} is not what was uploaded"


def list_events(load):
    found, start = [], ""
    while True:
        path = f"{CLIENT}/rooms/{load.room}/messages?dir=b&limit=100{start}"
        page = load.call("GET", path, load.tokens[0])
        found += [event["event_id"] for event in page["chunk"]]
        if "end" not in page:
            return found
        start = "&from=" + page["end"]
