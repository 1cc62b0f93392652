"""Stripe's own Python client and the Standard Webhooks library against the simulator.

Arguments: the gateway's URL, the receiver's URL, the receiver's secret. Fails at the first difference.
"""

import datetime
import sys
import urllib.error
import urllib.request

import stripe
from standardwebhooks import Webhook

GATEWAY, RECEIVER, SECRET = sys.argv[1:4]
MANUAL = {"amount": 1000, "currency": "gbp", "capture_method": "manual", "payment_method": "pm_card_visa"}


def client(retries=0, key="sk_test_python"):
    return stripe.StripeClient(key, base_addresses={"api": GATEWAY}, max_network_retries=retries)


def intents(**options):
    return client(**options).v1.payment_intents


def refused(kind, call):
    try:
        call()
    except kind as error:
        assert type(error) is kind, f"{type(error)} instead of {kind}"
        return error
    raise AssertionError(f"no {kind.__name__}")


def a_payment_is_taken_and_given_back():
    intent = intents().create({**MANUAL, "metadata": {"payment_id": "python-1"}})
    assert intent.status == "requires_confirmation", intent.status
    assert intents().confirm(intent.id).amount_capturable == 1000
    captured = intents().capture(intent.id, {"amount_to_capture": 900, "expand": ["latest_charge"]})
    assert (captured.status, captured.amount_received) == ("succeeded", 900)
    assert captured.latest_charge.captured and captured.latest_charge.payment_intent == intent.id
    refund = client().v1.refunds.create({"payment_intent": intent.id, "amount": 400, "reason": "requested_by_customer"})
    assert (refund.status, refund.amount, refund.charge) == ("succeeded", 400, captured.latest_charge.id)
    assert client().v1.refunds.retrieve(refund.id).payment_intent == intent.id
    found = intents().search({"query": "metadata['payment_id']:'python-1'"})
    assert [one.id for one in found.data] == [intent.id]
    error = refused(stripe.InvalidRequestError, lambda: intents().capture(intent.id))
    assert (error.http_status, error.code) == (400, "payment_intent_unexpected_state")
    assert error.error.payment_intent.status == "succeeded"


def a_decline_is_a_card_error():
    intent = intents().create({**MANUAL, "payment_method": "pm_card_chargeDeclinedInsufficientFunds"})
    error = refused(stripe.CardError, lambda: intents(retries=2).confirm(intent.id))
    assert (error.http_status, error.code) == (402, "card_declined")
    assert error.error.decline_code == "insufficient_funds"
    assert error.error.payment_intent.id == intent.id
    assert intents().retrieve(intent.id).last_payment_error.decline_code == "insufficient_funds"
    assert intents().cancel(intent.id).status == "canceled"


def a_key_is_answered_once():
    options = {"idempotency_key": "python-create-1"}
    first = intents().create(MANUAL, options)
    again = intents().create(MANUAL, options)
    assert first.id == again.id
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    error = refused(stripe.IdempotencyError, lambda: intents().create({**MANUAL, "amount": 1001}, options))
    assert error.http_status == 400


def errors_have_their_class():
    error = refused(stripe.InvalidRequestError, lambda: intents().create({"amount": 1000}))
    assert (error.code, error.param) == ("parameter_missing", "currency")
    error = refused(stripe.InvalidRequestError, lambda: intents().retrieve("pi_none"))
    assert (error.http_status, error.code) == (404, "resource_missing")
    error = refused(stripe.AuthenticationError, lambda: intents(key="sk_live_1").list())
    assert error.http_status == 401
    assert error.request_id.startswith("req_")


def a_lost_answer_is_fetched_by_the_clients_own_retry():
    intent = intents().create({**MANUAL, "payment_method": "pm_card_answer_lost"})
    assert intents(retries=2).confirm(intent.id).status == "requires_capture"
    lost = intents().create({**MANUAL, "payment_method": "pm_card_answer_lost"})
    refused(stripe.APIConnectionError, lambda: intents().confirm(lost.id))
    assert intents().retrieve(lost.id).status == "requires_capture"


def a_stored_error_outlasts_every_retry():
    intent = intents().create({**MANUAL, "payment_method": "pm_card_error_stored"})
    error = refused(stripe.APIError, lambda: intents(retries=2).confirm(intent.id))
    assert error.http_status == 500
    assert intents().retrieve(intent.id).status == "requires_confirmation"
    assert intents().confirm(intent.id).status == "requires_capture"


def a_list_pages_to_its_end():
    ids = [intent.id for intent in intents().list({"limit": 2}).auto_paging_iter()]
    assert len(ids) == len(set(ids)) >= 6, ids


def a_signed_webhook_is_accepted():
    body, now = '{"type":"order.created","data":{"order_id":"o-1"}}', datetime.datetime.now(datetime.timezone.utc)
    signature = Webhook(SECRET).sign("python-1", now, body)
    assert deliver(body, now, signature) == 204
    assert deliver(body.replace("o-1", "o-2"), now, signature) == 401


def deliver(body, now, signature):
    headers = {
        "webhook-id": "python-1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }
    try:
        return urllib.request.urlopen(urllib.request.Request(RECEIVER, body.encode(), headers)).status
    except urllib.error.HTTPError as error:
        return error.code


for check in [
    a_payment_is_taken_and_given_back,
    a_decline_is_a_card_error,
    a_key_is_answered_once,
    errors_have_their_class,
    a_lost_answer_is_fetched_by_the_clients_own_retry,
    a_stored_error_outlasts_every_retry,
    a_list_pages_to_its_end,
    a_signed_webhook_is_accepted,
]:
    check()
    print("ok", check.__name__)
