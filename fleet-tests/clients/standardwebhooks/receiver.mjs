// A receiver of webhooks that trusts the Standard Webhooks library alone.
//
// Its argument is the secret. Says the port it listens on, then a line of JSON for each request: what came, and the library's
// verdict. 204 when the library accepts it, 401 when it does not.

import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.argv[2]);

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks).toString();
  let refused = null;
  try {
    webhook.verify(body, request.headers);
  } catch (error) {
    refused = error.message;
  }
  const { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signature } = request.headers;
  console.log(JSON.stringify({ id, timestamp, signature, body, refused }));
  response.writeHead(refused === null ? 204 : 401).end();
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
