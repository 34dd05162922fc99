"""Receives what Muster sends to a webhook: checks every signature and prints every event once.

    python3 -m pip install standardwebhooks==1.1.0
    WEBHOOK_SECRET=whsec_… python3 examples/webhook_receiver.py 9000

A receiver checks the signature over the exact bytes, answers with 2xx as soon as it has the event safely, and drops what it
has had before by `webhook-id`.
"""

import json
import os
import sys
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

WEBHOOK = Webhook(os.environ["WEBHOOK_SECRET"])
LARGEST = 1024 * 1024
# What was had before. A real receiver keeps it as long as it keeps what it made of the events.
SEEN: "OrderedDict[str, None]" = OrderedDict()
REMEMBERED = 100_000
LOCK = Lock()


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        if length > LARGEST:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(length)
        try:
            event = WEBHOOK.verify(body, dict(self.headers))
        except WebhookVerificationError as error:
            print(f"refused: {error}", flush=True)
            return self.answer(401)
        with LOCK:
            repeated = event["id"] in SEEN
            SEEN[event["id"]] = None
            if len(SEEN) > REMEMBERED:
                SEEN.popitem(last=False)
            if not repeated:
                print(json.dumps(event), flush=True)
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 9000), Receiver)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
