// The first page: reads the API once a second and changes only the cells that differ, so that nothing flickers.
"use strict";

const STORE = "orderfleet.key";
const EVERY_MS = 1000;
const PATIENCE_MS = 8000;
const ORDERS_SHOWN = 25;

const $ = (id) => document.getElementById(id);
let timer = 0;
let round = 0;

/** An answer of the API, or an error that says what to do. */
async function read(path) {
  const response = await fetch("/api/v1" + path, {
    headers: { "X-API-Key": sessionStorage.getItem(STORE) ?? "", Accept: "application/json" },
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  const body = await response.json().catch(() => null);
  if (response.ok && body) return body;
  const error = new Error(body?.detail ?? `the API answered ${response.status}`);
  error.status = response.status;
  throw error;
}

/** Makes the table body hold exactly these rows; `cells` gives [text, class, title] for each column. */
function fill(body, rows, keyOf, cells) {
  const known = new Map([...body.children].map((tr) => [tr.dataset.key, tr]));
  rows.forEach((row, at) => {
    const key = String(keyOf(row));
    const tr = known.get(key) ?? Object.assign(document.createElement("tr"), {});
    tr.dataset.key = key;
    known.delete(key);
    cells(row).forEach(([text, look = "", title = ""], n) => {
      const td = tr.children[n] ?? tr.appendChild(document.createElement("td"));
      if (td.textContent !== text) td.textContent = text;
      if (td.className !== look) td.className = look;
      if (td.title !== title) td.title = title;
    });
    if (body.children[at] !== tr) body.insertBefore(tr, body.children[at] ?? null);
  });
  known.forEach((tr) => tr.remove());
}

const count = (n, look = "") => [n.toLocaleString(), `n ${n === 0 ? "zero" : look}`.trim()];

function span(seconds) {
  if (seconds == null) return "";
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

function queueCells(q) {
  const age = q.oldest_due_seconds;
  const halted = q.paused ? `paused: ${q.paused.reason}` : q.paused_kinds.map((k) => `${k} paused`).join(", ");
  return [
    [q.name],
    count(q.available), count(q.running, "good"), count(q.scheduled), count(q.retryable, "busy"), count(q.dead, "bad"),
    [span(age), `n ${age > 60 ? "bad" : age > 5 ? "busy" : "calm"}`],
    [halted, halted ? "bad" : "", q.paused ? `by ${q.paused.actor}, ${new Date(q.paused.paused_at).toLocaleString()}` : ""],
  ];
}

const LOOKS = {
  good: ["confirmed", "closed", "captured", "authorized", "shipped", "delivered"],
  busy: ["pending", "reserved", "cancelling", "authorizing", "capturing", "voiding", "refunding", "partial"],
  bad: ["on_hold", "rejected", "declined", "unknown"],
};
const look = (word) => Object.keys(LOOKS).find((name) => LOOKS[name].includes(word)) ?? "calm";
const state = (word, why) => [word === "none" ? "–" : word.replaceAll("_", " "), look(word), why ?? ""];

function money(minor, currency) {
  const format = new Intl.NumberFormat(undefined, { style: "currency", currency });
  const digits = format.resolvedOptions().maximumFractionDigits;
  return format.format(minor / 10 ** digits);
}

function orderCells(o) {
  return [
    ["…" + o.id.slice(-12), "id", o.id],
    [o.reference ?? ""],
    state(o.status, o.reason ? JSON.stringify(o.reason) : ""),
    state(o.payment_status),
    state(o.fulfilment_status),
    [money(o.total_minor, o.currency), "n"],
    [span((Date.now() - Date.parse(o.created_at)) / 1000), "n calm", new Date(o.created_at).toLocaleString()],
  ];
}

function pulse(text, look) {
  $("pulse").textContent = text;
  $("pulse").className = look;
}

function trouble(text) {
  if ($("trouble").textContent !== text) $("trouble").textContent = text;
  $("trouble").hidden = text === "";
}

function ask(why) {
  clearTimeout(timer);
  round++;
  sessionStorage.removeItem(STORE);
  $("fleet").hidden = $("forget").hidden = true;
  $("ask").hidden = false;
  trouble(why);
  pulse("needs a key", "");
  $("key").focus();
}

async function refresh() {
  const mine = ++round;
  try {
    const [queues, orders] = await Promise.all([read("/queues"), read(`/orders?limit=${ORDERS_SHOWN}`)]);
    if (mine !== round) return;
    fill($("queues"), queues.items, (q) => q.name, queueCells);
    fill($("orders"), orders.items, (o) => o.id, orderCells);
    $("none").hidden = orders.items.length > 0;
    $("fleet").hidden = $("forget").hidden = false;
    $("ask").hidden = true;
    trouble("");
    pulse("live", "live");
  } catch (error) {
    if (mine !== round) return;
    if (error.status === 401) return ask("The API does not know this key.");
    if (error.status === 403) return ask(error.message);
    trouble(error.status ? error.message : "The API does not answer; trying again.");
    pulse("out of touch", "lost");
  }
  timer = setTimeout(refresh, document.hidden ? EVERY_MS * 5 : EVERY_MS);
}

function start() {
  $("ask").hidden = true;
  pulse("connecting", "");
  clearTimeout(timer);
  refresh();
}

/** A key brought along in the address is taken, and taken out of it. */
function arriving() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!key) return;
  sessionStorage.setItem(STORE, key);
  history.replaceState(null, "", location.pathname);
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(STORE, $("key").value.trim());
  $("key").value = "";
  trouble("");
  start();
});
$("forget").addEventListener("click", () => ask(""));
window.addEventListener("hashchange", () => { arriving(); start(); });

arriving();
if (sessionStorage.getItem(STORE)) start();
else ask("");
