"""Stripe's own Python client against the gateway simulator.

Argument: the gateway's URL. Fails at the first difference. Prints the intents of each check that must have had exactly
one effect, for the ledger to confirm.
"""

import http.server
import json
import sys
import threading
import time
import urllib.request
from unittest import mock

import stripe

GATEWAY = sys.argv[1]
MANUAL = {"amount": 1000, "currency": "gbp", "capture_method": "manual", "payment_method": "pm_card_visa"}
CONFIRMATION = "POST /v1/payment_intents/{id}/confirm"


def client(retries=0, key="sk_test_python"):
    return stripe.StripeClient(key, base_addresses={"api": GATEWAY}, max_network_retries=retries)


def intents(**options):
    return client(**options).v1.payment_intents


def simulator(method, what, body=None):
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"{GATEWAY}/_simulator/{what}", data, method=method)
    return json.load(urllib.request.urlopen(request))


def struck(fault, call):
    """Orders trouble for one request, and makes it."""
    simulator("POST", "faults", {"count": 1, **fault})
    try:
        return call()
    finally:
        assert simulator("GET", "faults")["data"][0]["fired"] == 1, "the fault did not strike"
        simulator("DELETE", "faults")


def refused(kind, call):
    try:
        call()
    except kind as error:
        assert type(error) is kind, f"{type(error)} instead of {kind}"
        return error
    raise AssertionError(f"no {kind.__name__}")


def executed(intent):
    print("once", intent.id)


def a_payment_is_taken_in_part_and_given_back():
    intent = intents().create({**MANUAL, "metadata": {"payment_id": "python-1"}})
    assert intent.status == "requires_confirmation", intent.status
    assert intents().confirm(intent.id).amount_capturable == 1000
    captured = intents().capture(intent.id, {"amount_to_capture": 900, "expand": ["latest_charge"]})
    assert (captured.status, captured.amount_received) == ("succeeded", 900)
    assert captured.latest_charge.captured and captured.latest_charge.payment_intent == intent.id
    refund = client().v1.refunds.create({"payment_intent": intent.id, "amount": 400, "reason": "requested_by_customer"})
    assert (refund.status, refund.amount, refund.charge) == ("succeeded", 400, captured.latest_charge.id)
    assert client().v1.refunds.retrieve(refund.id).payment_intent == intent.id
    refused(stripe.InvalidRequestError, lambda: client().v1.refunds.create({"payment_intent": intent.id, "amount": 501}))
    found = intents().search({"query": "metadata['payment_id']:'python-1'"})
    assert [one.id for one in found.data] == [intent.id]
    error = refused(stripe.InvalidRequestError, lambda: intents().capture(intent.id))
    assert (error.http_status, error.code) == (400, "payment_intent_unexpected_state")
    assert error.error.payment_intent.status == "succeeded"
    executed(intent)


def a_cancelled_intent_holds_nothing_and_refuses_what_comes_later():
    intent = intents().create({**MANUAL, "confirm": True})
    canceled = intents().cancel(intent.id, {"cancellation_reason": "abandoned"})
    assert (canceled.status, canceled.cancellation_reason) == ("canceled", "abandoned")
    for late in [intents().capture, intents().confirm]:
        error = refused(stripe.InvalidRequestError, lambda: late(intent.id))
        assert error.code == "payment_intent_unexpected_state"


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


def its_own_retry_after_a_409_a_503_a_dropped_socket_and_a_lost_answer_has_one_effect():
    for fault in ["conflict", "unavailable", "reset", "answer_lost"]:
        intent = intents().create(MANUAL)
        confirm = lambda: intents(retries=2).confirm(intent.id)
        assert struck({"route": CONFIRMATION, "fault": fault}, confirm).status == "requires_capture", fault
        executed(intent)


def a_lost_answer_without_a_retry_is_a_connection_error_and_asking_tells():
    intent = intents().create(MANUAL)
    confirm = lambda: intents().confirm(intent.id)
    refused(stripe.APIConnectionError, lambda: struck({"route": CONFIRMATION, "fault": "answer_lost"}, confirm))
    assert intents().retrieve(intent.id).status == "requires_capture"
    executed(intent)


def a_stored_500_outlasts_every_retry_and_another_key_ends_it():
    intent = intents().create(MANUAL)
    confirm = lambda: intents(retries=2).confirm(intent.id)
    stored = lambda: struck({"route": CONFIRMATION, "fault": "error_stored"}, confirm)
    assert refused(stripe.APIError, stored).http_status == 500
    assert intents().confirm(intent.id).status == "requires_capture"
    executed(intent)


def a_500_after_the_fact_says_nothing_and_asking_tells():
    intent = intents().create(MANUAL)
    confirm = lambda: intents(retries=2).confirm(intent.id)
    refused(stripe.APIError, lambda: struck({"route": CONFIRMATION, "fault": "error_stored_after"}, confirm))
    assert intents().retrieve(intent.id).status == "requires_capture"
    executed(intent)


def too_much_at_once_is_not_retried():
    intent = intents().create(MANUAL)
    confirm = lambda: intents(retries=2).confirm(intent.id)
    throttled = lambda: struck({"route": CONFIRMATION, "fault": "lock_timeout"}, confirm)
    error = refused(stripe.RateLimitError, throttled)
    assert (error.http_status, error.error.code) == (429, "lock_timeout")
    confirm()
    executed(intent)


def half_an_answer_is_an_error_and_its_key_brings_the_whole_one():
    intent = intents().create(MANUAL)
    confirm = lambda: intents().confirm(intent.id, {}, {"idempotency_key": "python-half"})
    refused(stripe.APIError, lambda: struck({"route": CONFIRMATION, "fault": "wrong_json"}, confirm))
    assert confirm().status == "requires_capture"
    executed(intent)


def a_list_pages_to_its_end_both_ways():
    ids = [intent.id for intent in intents().list({"limit": 2}).auto_paging_iter()]
    assert len(ids) == len(set(ids)) >= 8, ids
    before = intents().list({"limit": 3, "ending_before": ids[5]})
    assert [one.id for one in before.data] == ids[2:5]
    after = intents().list({"limit": 3, "starting_after": ids[1]})
    assert [one.id for one in after.data] == ids[2:5] and after.has_more


def what_moved_is_on_the_balance_and_shows_its_source():
    v1 = client().v1
    intent = intents().create({**MANUAL, "amount": 777, "confirm": True})
    captured = intents().capture(intent.id, {"expand": ["latest_charge.balance_transaction", "latest_charge"]})
    moved = captured.latest_charge.balance_transaction
    assert (moved.amount, moved.net, moved.type) == (777, 777, "charge")
    refund = v1.refunds.create({"payment_intent": intent.id, "expand": ["balance_transaction"]})
    assert refund.balance_transaction.amount == -777
    since = {"created": {"gte": intent.created}, "expand": ["data.source"], "limit": 1}
    listed = [one.source.id for one in v1.balance_transactions.list(since).auto_paging_iter()]
    assert listed[:2] == [refund.id, captured.latest_charge.id]
    assert v1.balance_transactions.retrieve(moved.id).source == captured.latest_charge.id
    assert v1.charges.retrieve(captured.latest_charge.id).payment_intent == intent.id


def a_webhook_is_verified_and_a_stale_changed_or_foreign_one_is_not():
    letters = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            letters.append((self.rfile.read(int(self.headers["content-length"])), self.headers["stripe-signature"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    v1 = client().v1
    url = f"http://127.0.0.1:{server.server_port}/"
    endpoint = v1.webhook_endpoints.create({"url": url, "enabled_events": ["payment_intent.succeeded"]})
    intent = intents().create({**MANUAL, "confirm": True})
    intents().capture(intent.id)
    deadline = time.monotonic() + 20
    while not letters:
        assert time.monotonic() < deadline, "no letter came"
        time.sleep(0.01)
    body, signature = letters[0]
    event = client().construct_event(body, signature, endpoint.secret)
    assert (event.type, event.data.object["id"]) == ("payment_intent.succeeded", intent.id)
    assert v1.events.retrieve(event.id).data.object["amount_received"] == 1000
    verify = lambda body, secret: client().construct_event(body, signature, secret)
    refused(stripe.SignatureVerificationError, lambda: verify(body.replace(b"1000", b"9000"), endpoint.secret))
    refused(stripe.SignatureVerificationError, lambda: verify(body, "whsec_another"))
    with mock.patch("time.time", return_value=time.time() + 301):
        refused(stripe.SignatureVerificationError, lambda: verify(body, endpoint.secret))
    assert v1.webhook_endpoints.update(endpoint.id, {"disabled": True}).status == "disabled"
    assert v1.webhook_endpoints.delete(endpoint.id).deleted
    server.shutdown()
    kinds = [one.type for one in v1.events.list({"types": ["payment_intent.succeeded"], "limit": 2}).auto_paging_iter()]
    assert len(kinds) >= 3 and set(kinds) == {"payment_intent.succeeded"}


for check in [
    a_payment_is_taken_in_part_and_given_back,
    a_cancelled_intent_holds_nothing_and_refuses_what_comes_later,
    a_decline_is_a_card_error,
    a_key_is_answered_once,
    errors_have_their_class,
    its_own_retry_after_a_409_a_503_a_dropped_socket_and_a_lost_answer_has_one_effect,
    a_lost_answer_without_a_retry_is_a_connection_error_and_asking_tells,
    a_stored_500_outlasts_every_retry_and_another_key_ends_it,
    a_500_after_the_fact_says_nothing_and_asking_tells,
    too_much_at_once_is_not_retried,
    half_an_answer_is_an_error_and_its_key_brings_the_whole_one,
    a_list_pages_to_its_end_both_ways,
    what_moved_is_on_the_balance_and_shows_its_source,
    a_webhook_is_verified_and_a_stale_changed_or_foreign_one_is_not,
]:
    check()
    print("ok", check.__name__)
