"""Lines between a server and a program beside it, over HTTP, which a test can watch and shut.

Not for judging what is said on them; the scenes do that.
"""

import http.client
import http.server
import json
import threading
import time
import urllib.parse

ANSWER_SECONDS_MAX = 60
PATIENCE_SECONDS = 30
PAUSE_SECONDS = 0.05
# These belong to one connection, and there are two of them here. What is compressed could not be watched.
HEADERS_OF_A_CONNECTION = {"host", "connection", "keep-alive", "content-length", "transfer-encoding", "accept-encoding"}
TRANSACTIONS = "/_matrix/app/v1/transactions/"


class Line:
    """Passes requests on to a URL; what cannot be passed on is asked again until it has an answer, as a careful
    reverse proxy does."""

    def __init__(self, target):
        target = urllib.parse.urlsplit(target)
        self.host, self.port = target.hostname, target.port
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.line = self
        # The paths of all requests, in order.
        self.asked = []
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(PAUSE_SECONDS,), daemon=True).start()

    def answer(self, method, path, headers, body):
        """Status, type and body of the answer."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self.ask(method, path, headers, body)
            except (OSError, http.client.HTTPException):
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_SECONDS)

    def ask(self, method, path, headers, body):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=ANSWER_SECONDS_MAX)
        try:
            connection.request(method, path, body if method in ("POST", "PUT") else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("Content-Type", "application/json"), answer.read()
        finally:
            connection.close()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Door(Line):
    """The line on which the server brings a service its transactions. It can be shut, and remembers what was taken;
    a service that is not there has the server try again."""

    def __init__(self, target):
        super().__init__(target)
        self.is_open, self.lock = True, threading.Lock()
        # In the order in which they were taken for the first time.
        self.taken, self.faults = {}, []

    def answer(self, method, path, headers, body):
        if not self.is_open:
            return 503, "application/json", b'{"errcode": "M_UNKNOWN", "error": "The door is shut."}'
        try:
            status, kind, answer = self.ask(method, path, headers, body)
        except (OSError, http.client.HTTPException):
            return 502, "application/json", b'{"errcode": "M_UNKNOWN", "error": "Nobody is at home."}'
        if path.startswith(TRANSACTIONS) and status == 200:
            self.note(int(path.removeprefix(TRANSACTIONS).partition("?")[0]), json.loads(body))
        return status, kind, answer

    def note(self, number, transaction):
        with self.lock:
            if self.taken.get(number, transaction) != transaction:
                self.faults.append(f"transaction {number} came with two contents")
            if number not in self.taken and self.taken and number < max(self.taken):
                self.faults.append(f"transaction {number} came after {max(self.taken)}")
            self.taken.setdefault(number, transaction)

    def list(self, part):
        """What all transactions had as `events`, `to_device` and the like, in order."""
        with self.lock:
            return [entry for transaction in self.taken.values() for entry in transaction.get(part, [])]

    def check(self, expected):
        """Of these events, each must have come exactly once and in this order; and no event at all twice."""
        assert not self.faults, self.faults
        events = [event["event_id"] for event in self.list("events")]
        assert len(events) == len(set(events)), f"twice: {sorted(id for id in set(events) if events.count(id) > 1)}"
        came = [event_id for event_id in events if event_id in set(expected)]
        assert came == list(expected), f"{came} came, not {list(expected)}"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        """One end of the line is gone, which is what the scenes are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HEADERS_OF_A_CONNECTION}
        self.server.line.asked.append(self.path)
        status, kind, answer = self.server.line.answer(self.command, self.path, headers, body)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = pass_on

    def log_message(self, *_):
        """Nobody reads it."""
