#!/usr/bin/env bash
# aiosmtpd 1.4.6 (PyPI), a server whose authenticator returns `AuthResult(success=False)`, and a client that sends a
# wrong password by AUTH PLAIN.
#
# Guess: the client is told 535, "Authentication credentials invalid", as RFC 4954 has it; the class says that `success`
# is whether the password was right.
# Seen: the client is told nothing and waits until its own time is over. `handled` is true unless it is said otherwise,
# and means that the authenticator has answered itself; only `AuthResult(success=False, handled=False)` is answered by 535.
#
# Needs bash and python3 with venv and pip; installs nothing outside a temporary folder, which it removes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiosmtpd==1.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import smtplib
import socket

import aiosmtpd
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import AuthResult


def answer(result):
    """What a client with a wrong password is told within three seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Controller(
        Sink(), hostname="127.0.0.1", port=port, authenticator=lambda *_: result, auth_require_tls=False
    )
    server.start()
    try:
        client = smtplib.SMTP("127.0.0.1", port, timeout=3)
        client.ehlo()
        client.user, client.password = "web-1", "wrong"
        try:
            return client.auth("PLAIN", client.auth_plain)
        except smtplib.SMTPAuthenticationError as refused:
            return str(refused.smtp_code)
        except (TimeoutError, smtplib.SMTPServerDisconnected) as silent:
            return "nothing" if "timed out" in str(silent) else f"closed: {silent}"
    finally:
        server.stop()


print("aiosmtpd", aiosmtpd.__version__)
as_it_reads, said_otherwise = answer(AuthResult(success=False)), answer(AuthResult(success=False, handled=False))
print("AuthResult(success=False): the client is told", as_it_reads)
print("AuthResult(success=False, handled=False): the client is told", said_otherwise)
assert (as_it_reads, said_otherwise) == ("nothing", "535"), "another answer than was seen: look again"
PYTHON
