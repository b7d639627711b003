"""A fake of ORCID's member API, written apart from dispatchd and its simulator.

It knows the rules of registering webhooks only: who may, what is answered, who
owns a row. It keeps count of every request, so that a test in any language can
ask at /_state what really came. Standard library only; listens on 127.0.0.1.

    python3 orcid.py id:secret [id:secret ...]     prints the port it listens on
"""
import json
import re
import sys
import threading
import time
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROUTE = re.compile(r"^/((?:\d{4}-){3}\d{3}[\dX])/webhook/([^/]+)$")
HELP = "https://members.orcid.org/api/resources/troubleshooting"


class Registry:
    def __init__(self, clients):
        self.lock = threading.Lock()
        self.clients = clients          # id -> secret
        self.off = set()                # clients that ORCID deactivated
        self.refuse = {}                # client -> the answer of the token endpoint: status, error, text
        self.tokens = {}                # token -> (client, scopes)
        self.rows = {}                  # (orcid, uri) -> client
        self.counts = {}                # "put 201" -> how often
        self.puts = {}                  # (orcid, uri) -> how many PUTs came
        self.first = {}                 # (orcid, uri) -> which request its first PUT was
        self.repeats = []               # of each repeated PUT, which request the first was
        self.times = []                 # when each request to the API came
        self.foreign = []               # DELETEs by somebody who does not own the row
        self.fail = {}                  # operation -> status to answer with

    def count(self, operation, status):
        key = "%s %d" % (operation, status)
        self.counts[key] = self.counts.get(key, 0) + 1

    def peak(self):
        """The most requests that came in any one second."""
        times, most, first = sorted(self.times), 0, 0
        for last, at in enumerate(times):
            while at - times[first] > 1.0:
                first += 1
            most = max(most, last - first + 1)
        return most

    def state(self):
        return {
            "rows": [{"orcid": o, "uri": u, "client": c} for (o, u), c in self.rows.items()],
            "counts": self.counts,
            "repeated": sum(n - 1 for n in self.puts.values() if n > 1),
            "repeats": self.repeats,
            "requests": len(self.times),
            "peak": self.peak(),
            "foreign": self.foreign,
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry = None

    def log_message(self, *args):
        pass

    def answer(self, status, body=None, headers=()):
        raw = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Type", "application/json;charset=UTF-8")
            self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if status != 204:
            self.wfile.write(raw)

    def problem(self, status, code, message):
        return status, {"response-code": status, "developer-message": message, "user-message": message,
                        "error-code": code, "more-info": HELP}

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_POST(self):
        raw, r = self.body(), self.registry
        with r.lock:
            if self.path == "/oauth/token":
                return self.answer(*self.token(raw))
            if self.path == "/_off":
                r.off = set(json.loads(raw))
                return self.answer(200, {})
            if self.path == "/_refuse":
                r.refuse = json.loads(raw)
                return self.answer(200, {})
            if self.path == "/_fail":
                r.fail = json.loads(raw)
                return self.answer(200, {})
        self.answer(404)

    def token(self, raw):
        r = self.registry
        if self.headers.get("Content-Type", "").split(";")[0] != "application/x-www-form-urlencoded":
            return 415, {"error": "unsupported_media_type"}
        form = {k: v[0] for k, v in urllib.parse.parse_qs(raw.decode()).items()}
        client = form.get("client_id")
        if client in r.refuse:
            status, error, text = r.refuse[client]
            r.count("token", status)
            return status, {"error": error, "error_description": text}
        if r.clients.get(client) is None or r.clients[client] != form.get("client_secret"):
            r.count("token", 401)
            return 401, {"error": "invalid_client", "error_description": "Client authentication failed"}
        if client in r.off:
            r.count("token", 400)
            return 400, {"error": "unauthorized_client", "error_description": "The client is deactivated"}
        if form.get("grant_type") != "client_credentials":
            r.count("token", 400)
            return 400, {"error": "unsupported_grant_type"}
        scopes = form.get("scope", "").split()
        token = str(uuid.uuid4())
        r.tokens[token] = (client, scopes)
        r.count("token", 200)
        return 200, {"access_token": token, "token_type": "bearer", "refresh_token": str(uuid.uuid4()),
                     "expires_in": 631138518, "scope": " ".join(scopes), "orcid": None}

    def bearer(self, scope):
        """Whose token it is, or what is wrong with it."""
        r, text = self.registry, self.headers.get("Authorization", "")
        if not text.startswith("Bearer "):
            return None, (403, {"error": "forbidden", "error_description": "Forbidden"})
        client, scopes = r.tokens.get(text[7:], (None, []))
        if client is None:
            return None, (401, {"error": "invalid_token", "error_description": "Invalid access token: " + text[7:]})
        if client in r.off:
            return None, self.problem(409, 9057, "409 Conflict: The client is locked.")
        if scope not in scopes:
            return None, self.problem(403, 9038, "409 Conflict: the required scope is missing")
        return client, None

    def webhook(self, operation):
        self.body()
        r = self.registry
        with r.lock:
            r.times.append(time.monotonic())
            status, body, headers = self.decide(operation)
            r.count(operation, status)
        self.answer(status, body, headers)

    def decide(self, operation):
        r, route = self.registry, ROUTE.match(self.path)
        if operation in r.fail:
            return r.fail[operation], None, ()
        if not route:
            return (*self.problem(400, 9012, "Please specify the API Version you want to use"), ())
        client, wrong = self.bearer("/webhook")
        if wrong:
            return (*wrong, ())
        row = (route.group(1), urllib.parse.unquote(route.group(2)))
        if operation == "put":
            if not re.match(r"^https?://[^\s<>\"{}|\\^`]+$", row[1]):
                return (*self.problem(400, 9012, "Webhook uri: %s is syntactically incorrect" % row[1]), ())
            r.puts[row] = r.puts.get(row, 0) + 1
            if r.puts[row] == 1:
                r.first[row] = len(r.times)
            else:
                r.repeats.append(r.first[row])
            if row in r.rows:
                return 204, None, ()
            r.rows[row] = client
            return 201, None, (("Location", self.path),)
        if row not in r.rows:
            return (*self.problem(404, 9028, "No webhook found for orcid=%s, and uri=%s." % row), ())
        if r.rows[row] != client:
            r.foreign.append(row[0])
            return (*self.problem(403, 9014, "Only the client that register the webhook can unregister it."), ())
        del r.rows[row]
        r.puts[row] = 0
        return 204, None, ()

    def do_PUT(self):
        self.webhook("put")

    def do_DELETE(self):
        self.webhook("delete")

    def do_GET(self):
        r, path = self.registry, self.path.split("?")[0]
        with r.lock:
            if path == "/_state":
                return self.answer(200, r.state())
            r.times.append(time.monotonic())
            client, wrong = self.bearer("/read-public")
            if wrong is None and path == "/v3.0/search":
                wrong = 200, {"result": [], "num-found": 0}
            elif wrong is None:
                wrong = self.problem(404, 9016, "404 Not Found: The resource was not found.")
            r.count("get", wrong[0])
        self.answer(*wrong)


if __name__ == "__main__":
    Handler.registry = Registry(dict(arg.split(":", 1) for arg in sys.argv[1:]))
    ThreadingHTTPServer.request_queue_size = 128
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    # It ends with whoever started it: standard input is closed then.
    threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()
    server.serve_forever()
