"""A mail server for tests: keeps what it takes as JSON, and answers by the recipient's name.

    server.py PORT FOLDER [CERTIFICATE KEY NAME:PASSWORD]

`nobody@…` has no mailbox (550), `later@…` is to be tried again (451), `never@…` is not taken (554). With a certificate it
takes mails over STARTTLS alone, from those who know the name and the password. With `SMTPUTF8=no` in its environment it takes
no addresses beyond ASCII. Needs aiosmtpd 1.4.6.
"""

import email
import email.policy
import json
import os
import pathlib
import ssl
import sys
import threading
import time

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

ANSWERS = {"nobody": "550 5.1.1 no such mailbox", "later": "451 4.3.0 come again", "never": "554 5.6.0 not here"}


class Keeper:
    def __init__(self, folder):
        self.folder, self.number, self.lock = pathlib.Path(folder), 0, threading.Lock()

    async def handle_RCPT(self, server, session, envelope, address, options):
        answer = ANSWERS.get(address.split("@")[0])
        if answer:
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
        calendar = next((part for part in message.walk() if part.get_content_type() == "text/calendar"), None)
        kept = {
            "to": envelope.rcpt_tos,
            "from": envelope.mail_from,
            "smtputf8": envelope.smtp_utf8,
            "headers": {name.lower(): str(value) for name, value in message.items()},
            "text": message.get_body(("plain",)).get_content(),
            "html": message.get_body(("html",)).get_content(),
            "calendar": calendar.get_content() if calendar else None,
            "method": calendar.get_param("method") if calendar else None,
            "defects": [str(defect) for part in message.walk() for defect in part.defects],
        }
        with self.lock:
            self.number += 1
            part = self.folder / f"{time.time_ns():020}.{self.number}.part"
        part.write_text(json.dumps(kept), encoding="utf-8")
        part.rename(part.with_suffix(".json"))
        return "250 taken"


port, folder, *secured = sys.argv[1:]
more = {"enable_SMTPUTF8": os.environ.get("SMTPUTF8") != "no"}
if secured:
    certificate, key, login = secured
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)

    def knows(server, session, envelope, mechanism, data):
        return AuthResult(success=f"{data.login.decode()}:{data.password.decode()}" == login)

    more |= {"tls_context": tls, "require_starttls": True, "authenticator": knows, "auth_required": True}
controller = Controller(Keeper(folder), hostname="127.0.0.1", port=int(port), **more)
controller.start()
print("ready", flush=True)
threading.Event().wait()
