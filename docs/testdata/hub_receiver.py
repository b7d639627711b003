"""A receiver as organisations wrote them for the NZ ORCID Hub: it knows exactly
the Hub's fields and naive times, wants the key in the header apikey and the iD
behind its path, and knows nothing of signatures. It prints what it understood."""

import json
import os
import sys
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

ALWAYS, SOMETIMES = {"orcid", "url", "type", "updated-at", "email"}, {"created-at", "eppn"}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        try:
            assert self.headers["apikey"] == "kong-key", "apikey"
            assert self.headers["content-type"].split(";")[0] == "application/json", "content type"
            raw = self.rfile.read(int(self.headers["content-length"]))
            msg = json.loads(raw)
            assert ALWAYS <= set(msg) <= ALWAYS | SOMETIMES, f"keys {sorted(msg)}"
            assert ("created-at" in msg) == (msg["type"] == "CREATED"), "created-at"
            for key in ("updated-at", "created-at"):
                if key in msg:
                    datetime.strptime(msg[key], "%Y-%m-%dT%H:%M:%S")
            assert msg["url"].endswith(".org/" + msg["orcid"]), "url"
            assert self.path == "/orcid/" + msg["orcid"], f"path {self.path}"
            print(msg["type"], msg["orcid"], msg["email"], msg.get("eppn"), flush=True)
            self.send_response(200)
        except Exception as e:  # as a web framework would
            print("refused:", e, flush=True)
            self.send_response(500)
        self.end_headers()

    def log_message(self, *args):
        pass


HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
