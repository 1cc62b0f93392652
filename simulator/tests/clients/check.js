// Stripe's own Node client and the Standard Webhooks library against the simulator.
//
// Arguments: the gateway's URL, the receiver's URL, the receiver's secret. Fails at the first difference.

import assert from "node:assert/strict";
import Stripe from "stripe";
import { Webhook } from "standardwebhooks";

const [gateway, receiver, secret] = process.argv.slice(2);
const manual = { amount: 1000, currency: "gbp", capture_method: "manual", payment_method: "pm_card_visa" };

function client({ retries = 0, key = "sk_test_node" } = {}) {
  const { hostname, port } = new URL(gateway);
  return new Stripe(key, { host: hostname, port, protocol: "http", maxNetworkRetries: retries, telemetry: false });
}

const intents = (options) => client(options).paymentIntents;

async function refused(kind, call) {
  const error = await call().then(
    () => assert.fail(`no ${kind.name}`),
    (error) => error,
  );
  assert.equal(error.constructor.name, kind.name, error.message);
  return error;
}

const checks = {
  async "a payment is taken and given back"() {
    const intent = await intents().create({ ...manual, metadata: { payment_id: "node-1" } });
    assert.equal(intent.status, "requires_confirmation");
    assert.equal((await intents().confirm(intent.id)).amount_capturable, 1000);
    const captured = await intents().capture(intent.id, { amount_to_capture: 900, expand: ["latest_charge"] });
    assert.deepEqual([captured.status, captured.amount_received], ["succeeded", 900]);
    assert.equal(captured.latest_charge.amount_captured, 900);
    const refund = await client().refunds.create({ payment_intent: intent.id, amount: 400 });
    assert.deepEqual([refund.status, refund.amount, refund.charge], ["succeeded", 400, captured.latest_charge.id]);
    const refunds = await client().refunds.list({ payment_intent: intent.id });
    assert.deepEqual(refunds.data, [{ ...refund }]);
    const found = await intents().search({ query: "metadata['payment_id']:'node-1'" });
    assert.deepEqual(found.data.map((one) => one.id), [intent.id]);
    const error = await refused(Stripe.errors.StripeInvalidRequestError, () => intents().capture(intent.id));
    assert.deepEqual([error.statusCode, error.code], [400, "payment_intent_unexpected_state"]);
    assert.equal(error.payment_intent.status, "succeeded");
  },

  async "a decline is a card error"() {
    const intent = await intents().create({ ...manual, payment_method: "pm_card_chargeDeclinedInsufficientFunds" });
    const confirm = () => intents({ retries: 2 }).confirm(intent.id);
    const error = await refused(Stripe.errors.StripeCardError, confirm);
    assert.deepEqual([error.code, error.decline_code], ["card_declined", "insufficient_funds"]);
    assert.equal(error.payment_intent.id, intent.id);
    assert.equal((await intents().cancel(intent.id)).status, "canceled");
  },

  async "a key is answered once"() {
    const options = { idempotencyKey: "node-create-1" };
    const first = await intents().create(manual, options);
    const again = await intents().create(manual, options);
    assert.equal(again.id, first.id);
    assert.equal(again.lastResponse.headers["idempotent-replayed"], "true");
    assert.notEqual(again.lastResponse.requestId, first.lastResponse.requestId);
    const other = () => intents().create({ ...manual, amount: 1001 }, options);
    await refused(Stripe.errors.StripeIdempotencyError, other);
  },

  async "errors have their class"() {
    const missing = await refused(Stripe.errors.StripeInvalidRequestError, () => intents().create({ amount: 1000 }));
    assert.deepEqual([missing.code, missing.param], ["parameter_missing", "currency"]);
    const none = await refused(Stripe.errors.StripeInvalidRequestError, () => intents().retrieve("pi_none"));
    assert.deepEqual([none.statusCode, none.code], [404, "resource_missing"]);
    await refused(Stripe.errors.StripeAuthenticationError, () => intents({ key: "sk_live_1" }).list());
  },

  async "a lost answer is fetched by the client's own retry"() {
    const intent = await intents().create({ ...manual, payment_method: "pm_card_answer_lost" });
    assert.equal((await intents({ retries: 2 }).confirm(intent.id)).status, "requires_capture");
    const lost = await intents().create({ ...manual, payment_method: "pm_card_answer_lost" });
    // This client repeats once, with the same key, whenever a connection was closed, even when told never to.
    assert.equal((await intents().confirm(lost.id)).status, "requires_capture");
  },

  async "a stored error outlasts every retry"() {
    const intent = await intents().create({ ...manual, payment_method: "pm_card_error_stored" });
    const error = await refused(Stripe.errors.StripeAPIError, () => intents({ retries: 2 }).confirm(intent.id));
    assert.equal(error.statusCode, 500);
    assert.equal((await intents().confirm(intent.id)).status, "requires_capture");
  },

  async "a list pages to its end"() {
    const ids = [];
    for await (const intent of intents().list({ limit: 2 })) ids.push(intent.id);
    assert.ok(ids.length >= 6 && new Set(ids).size === ids.length, ids.join());
  },

  async "a signed webhook is accepted"() {
    const [body, now] = ['{"type":"order.created","data":{"order_id":"o-1"}}', new Date()];
    const headers = {
      "webhook-id": "node-1",
      "webhook-timestamp": String(Math.floor(now.getTime() / 1000)),
      "webhook-signature": new Webhook(secret).sign("node-1", now, body),
    };
    const deliver = async (body) => (await fetch(receiver, { method: "POST", headers, body })).status;
    assert.equal(await deliver(body), 204);
    assert.equal(await deliver(body.replace("o-1", "o-2")), 401);
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log("ok", name);
}

// This client never reads the answers it retries after, and their connections would keep the process alive.
process.exit(0);
