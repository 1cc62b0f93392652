"""A receiver of webhooks that trusts the Standard Webhooks library alone.

Its argument is the secret. Says the port it listens on, then a line of JSON for each request: what came, and the library's
verdict. 204 when the library accepts it, 401 when it does not.
"""

import http.server
import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

WEBHOOK = Webhook(sys.argv[1])


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        refused = None
        try:
            WEBHOOK.verify(body, dict(self.headers))
        except WebhookVerificationError as error:
            refused = str(error)
        came = {name: self.headers[f"webhook-{name}"] for name in ["id", "timestamp", "signature"]}
        print(json.dumps({**came, "body": body, "refused": refused}), flush=True)
        self.send_response(204 if refused is None else 401)
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
