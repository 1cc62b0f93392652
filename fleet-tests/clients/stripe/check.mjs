// Stripe's own Node.js client against the gateway simulator.
//
// Argument: the gateway's URL. Fails at the first difference. Prints the intents of each check that must have had exactly
// one effect, for the ledger to confirm.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import Stripe from "stripe";

const [gateway] = process.argv.slice(2);
const manual = { amount: 1000, currency: "gbp", capture_method: "manual", payment_method: "pm_card_visa" };
const confirmation = "POST /v1/payment_intents/{id}/confirm";

function client({ retries = 0, key = "sk_test_node" } = {}) {
  const { hostname, port } = new URL(gateway);
  return new Stripe(key, { host: hostname, port, protocol: "http", maxNetworkRetries: retries, telemetry: false });
}

const intents = (options) => client(options).paymentIntents;

async function simulator(method, what, body) {
  const answer = await fetch(`${gateway}/_simulator/${what}`, { method, body: body && JSON.stringify(body) });
  assert.equal(answer.status, 200, await answer.clone().text());
  return answer.json();
}

/// Orders trouble for one request, and makes it.
async function struck(fault, call) {
  await simulator("POST", "faults", { count: 1, ...fault });
  try {
    return await call();
  } finally {
    const { data } = await simulator("GET", "faults");
    assert.equal(data[0].fired, 1, "the fault did not strike");
    await simulator("DELETE", "faults");
  }
}

async function refused(kind, call) {
  const error = await call().then(
    () => assert.fail(`no ${kind.name}`),
    (error) => error,
  );
  assert.equal(error.constructor.name, kind.name, error.message);
  return error;
}

function executed(intent) {
  console.log("once", intent.id);
}

const checks = {
  async "a payment is taken in part and given back"() {
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
    const tooMuch = () => client().refunds.create({ payment_intent: intent.id, amount: 501 });
    await refused(Stripe.errors.StripeInvalidRequestError, tooMuch);
    const found = await intents().search({ query: "metadata['payment_id']:'node-1'" });
    assert.deepEqual(found.data.map((one) => one.id), [intent.id]);
    const error = await refused(Stripe.errors.StripeInvalidRequestError, () => intents().capture(intent.id));
    assert.deepEqual([error.statusCode, error.code], [400, "payment_intent_unexpected_state"]);
    assert.equal(error.payment_intent.status, "succeeded");
    executed(intent);
  },

  async "a cancelled intent holds nothing and refuses what comes later"() {
    const intent = await intents().create({ ...manual, confirm: true });
    const canceled = await intents().cancel(intent.id, { cancellation_reason: "abandoned" });
    assert.deepEqual([canceled.status, canceled.cancellation_reason], ["canceled", "abandoned"]);
    for (const late of [() => intents().capture(intent.id), () => intents().confirm(intent.id)]) {
      const error = await refused(Stripe.errors.StripeInvalidRequestError, late);
      assert.equal(error.code, "payment_intent_unexpected_state");
    }
  },

  async "a decline is a card error"() {
    const intent = await intents().create({ ...manual, payment_method: "pm_card_chargeDeclinedInsufficientFunds" });
    const confirm = () => intents({ retries: 2 }).confirm(intent.id);
    const error = await refused(Stripe.errors.StripeCardError, confirm);
    assert.deepEqual([error.statusCode, error.code, error.decline_code], [402, "card_declined", "insufficient_funds"]);
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

  async "its own retry after a 409, a 503, a dropped socket and a lost answer has one effect"() {
    for (const fault of ["conflict", "unavailable", "reset", "answer_lost"]) {
      const intent = await intents().create(manual);
      const confirm = () => intents({ retries: 2 }).confirm(intent.id);
      const confirmed = await struck({ route: confirmation, fault }, confirm);
      assert.equal(confirmed.status, "requires_capture", fault);
      executed(intent);
    }
  },

  async "a stored 500 outlasts every retry and another key ends it"() {
    const intent = await intents().create(manual);
    const confirm = () => intents({ retries: 2 }).confirm(intent.id);
    const stored = () => struck({ route: confirmation, fault: "error_stored" }, confirm);
    const error = await refused(Stripe.errors.StripeAPIError, stored);
    assert.equal(error.statusCode, 500);
    assert.equal((await intents().confirm(intent.id)).status, "requires_capture");
    executed(intent);
  },

  async "a 500 after the fact says nothing and asking tells"() {
    const intent = await intents().create(manual);
    const confirm = () => intents({ retries: 2 }).confirm(intent.id);
    const stored = () => struck({ route: confirmation, fault: "error_stored_after" }, confirm);
    await refused(Stripe.errors.StripeAPIError, stored);
    assert.equal((await intents().retrieve(intent.id)).status, "requires_capture");
    executed(intent);
  },

  async "too much at once is not retried, and Stripe-Should-Retry is obeyed"() {
    const intent = await intents().create(manual);
    const confirm = () => intents({ retries: 2 }).confirm(intent.id);
    const throttled = () => struck({ route: confirmation, fault: "lock_timeout" }, confirm);
    const error = await refused(Stripe.errors.StripeRateLimitError, throttled);
    assert.deepEqual([error.statusCode, error.code], [429, "lock_timeout"]);
    const never = { route: confirmation, fault: "unavailable", should_retry: false };
    await refused(Stripe.errors.StripeAPIError, () => struck(never, confirm));
    await confirm();
    executed(intent);
  },

  async "half an answer is an error, and its key brings the whole one"() {
    const intent = await intents().create(manual);
    const confirm = () => intents().confirm(intent.id, {}, { idempotencyKey: "node-half" });
    await refused(Stripe.errors.StripeAPIError, () => struck({ route: confirmation, fault: "wrong_json" }, confirm));
    assert.equal((await confirm()).status, "requires_capture");
    executed(intent);
  },

  async "a list pages to its end, both ways"() {
    const ids = [];
    for await (const intent of intents().list({ limit: 2 })) ids.push(intent.id);
    assert.ok(ids.length >= 8 && new Set(ids).size === ids.length, ids.join());
    const before = await intents().list({ limit: 3, ending_before: ids[5] });
    assert.deepEqual(before.data.map((one) => one.id), ids.slice(2, 5));
    const after = await intents().list({ limit: 3, starting_after: ids[1] });
    assert.deepEqual(after.data.map((one) => one.id), ids.slice(2, 5));
    assert.ok(after.has_more);
  },

  async "what moved is on the balance and shows its source"() {
    const intent = await intents().create({ ...manual, amount: 777, confirm: true });
    const captured = await intents().capture(intent.id, { expand: ["latest_charge.balance_transaction", "latest_charge"] });
    const moved = captured.latest_charge.balance_transaction;
    assert.deepEqual([moved.amount, moved.net, moved.type], [777, 777, "charge"]);
    const refund = await client().refunds.create({ payment_intent: intent.id, expand: ["balance_transaction"] });
    assert.equal(refund.balance_transaction.amount, -777);
    const listed = [];
    const since = { created: { gte: intent.created }, expand: ["data.source"], limit: 1 };
    for await (const one of client().balanceTransactions.list(since)) listed.push(one);
    assert.deepEqual(listed.slice(0, 2).map((one) => one.source.id), [refund.id, captured.latest_charge.id]);
    assert.equal((await client().balanceTransactions.retrieve(moved.id)).source, captured.latest_charge.id);
    assert.equal((await client().charges.retrieve(captured.latest_charge.id)).payment_intent, intent.id);
  },

  async "a webhook is verified, and a stale, changed or foreign one is not"() {
    const letters = [];
    const server = createServer(async (request, response) => {
      const parts = [];
      for await (const part of request) parts.push(part);
      letters.push([Buffer.concat(parts).toString(), request.headers["stripe-signature"]]);
      response.end();
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${server.address().port}/`;
    const { webhookEndpoints, webhooks, events } = client();
    const endpoint = await webhookEndpoints.create({ url, enabled_events: ["payment_intent.succeeded"] });
    const intent = await intents().create({ ...manual, confirm: true });
    await intents().capture(intent.id);
    const deadline = Date.now() + 20000;
    while (letters.length === 0) {
      assert.ok(Date.now() < deadline, "no letter came");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const [body, signature] = letters[0];
    const event = webhooks.constructEvent(body, signature, endpoint.secret);
    assert.deepEqual([event.type, event.data.object.id], ["payment_intent.succeeded", intent.id]);
    assert.equal((await events.retrieve(event.id)).data.object.amount_received, 1000);
    const late = Date.now() + 301_000;
    const bad = [
      () => webhooks.constructEvent(body, signature, endpoint.secret, 300, undefined, late),
      () => webhooks.constructEvent(body.replace("1000", "9000"), signature, endpoint.secret),
      () => webhooks.constructEvent(body, signature, "whsec_another"),
    ];
    for (const verify of bad) assert.throws(verify, Stripe.errors.StripeSignatureVerificationError);
    const changed = await webhookEndpoints.update(endpoint.id, { disabled: true });
    assert.equal(changed.status, "disabled");
    assert.equal((await webhookEndpoints.del(endpoint.id)).deleted, true);
    server.close();
    const kinds = [];
    for await (const one of events.list({ types: ["payment_intent.succeeded"], limit: 2 })) kinds.push(one.type);
    assert.ok(kinds.length >= 3 && new Set(kinds).size === 1, kinds.join());
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log("ok", name);
}

// This client never reads the answers it retries after, and their connections would keep the process alive.
process.exit(0);
