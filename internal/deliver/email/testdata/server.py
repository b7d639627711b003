"""A mail server (Debian's python3-aiosmtpd) for tests.

server.py FOLDER CERTIFICATE KEY: serves STARTTLS (required) and implicit TLS,
each on a port of its own, and wants a login: hub, hunter2. Prints the two ports,
keeps each mail in FOLDER, and ends when its standard input does.
"""
import pathlib
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

folder, certificate, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)


class Keep:
    count = 0

    async def handle_DATA(self, server, session, envelope):
        Keep.count += 1
        head = f"{server.transport.get_extra_info('cipher')[1]} {envelope.mail_from} {' '.join(envelope.rcpt_tos)}\n"
        pathlib.Path(folder, f"{Keep.count}.mail").write_bytes(head.encode() + envelope.content)
        return "250 kept"


def login(server, session, envelope, mechanism, data):
    good = getattr(data, "login", None) == b"hub" and getattr(data, "password", None) == b"hunter2"
    return AuthResult(success=good, handled=False)


def start(**options):
    c = Controller(Keep(), hostname="127.0.0.1", port=0, server_hostname="mail.example", authenticator=login, auth_required=True, **options)
    c.port = free()
    c.start()
    return c


def free():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


starttls = start(tls_context=context, require_starttls=True)
# The connection is encrypted from its beginning, which aiosmtpd does not count.
implicit = start(ssl_context=context, auth_require_tls=False)
print(starttls.port, implicit.port, flush=True)
sys.stdin.read()
starttls.stop()
implicit.stop()
