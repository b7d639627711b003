"""Receives dispatchd's webhooks. Python 3.8 or newer, nothing to install.

    WEBHOOK_SECRET=whsec_... PORT=8000 python3 receive.py
"""

import base64
import hashlib
import hmac
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = base64.b64decode(os.environ["WEBHOOK_SECRET"][len("whsec_"):])
TOLERANCE = 300  # seconds that the timestamp may be away from our clock


def verify(headers, body):
    """Return whether the body was signed with our key, not long ago."""
    msg_id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not stamp.isdigit() or abs(time.time() - int(stamp)) > TOLERANCE:
        return False
    signed = f"{msg_id}.{stamp}.".encode() + body  # the bytes as they came, not parsed and written anew
    want = b"v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest())
    # There are two signatures while the secret is being changed: one must fit.
    return any(hmac.compare_digest(want, one.encode()) for one in headers.get("webhook-signature", "").split())


SEEN = set()  # in real life: a table with a unique key


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        good = verify(self.headers, body)
        if good and self.headers["webhook-id"] not in SEEN:
            SEEN.add(self.headers["webhook-id"])
            event = json.loads(body)
            # Only put it into a queue here: answer first, work afterwards.
            print(event["type"], event.get("orcid", ""), flush=True)
        self.send_response(204 if good else 401)
        self.end_headers()

    def log_message(self, *args):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Receiver).serve_forever()
