// What was said on the wire, against the types that Stripe publishes in its npm package.
//
// Argument: a file of JSON lines, each with the method, the path, the form and the answer of one request. Every field of
// a form must be a member of its parameters' type, and every answer must be its resource, whole and without anything
// that the resource does not have.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const endpoints = [
  ["POST", /^\/v1\/payment_intents$/, "PaymentIntentCreateParams", "PaymentIntent"],
  ["GET", /^\/v1\/payment_intents$/, "PaymentIntentListParams", "ApiList<Stripe.PaymentIntent>"],
  ["GET", /^\/v1\/payment_intents\/search$/, "PaymentIntentSearchParams", "ApiSearchResult<Stripe.PaymentIntent>"],
  ["POST", /^\/v1\/payment_intents\/\w+\/confirm$/, "PaymentIntentConfirmParams", "PaymentIntent"],
  ["POST", /^\/v1\/payment_intents\/\w+\/capture$/, "PaymentIntentCaptureParams", "PaymentIntent"],
  ["POST", /^\/v1\/payment_intents\/\w+\/cancel$/, "PaymentIntentCancelParams", "PaymentIntent"],
  ["GET", /^\/v1\/payment_intents\/\w+$/, "PaymentIntentRetrieveParams", "PaymentIntent"],
  ["POST", /^\/v1\/refunds$/, "RefundCreateParams", "Refund"],
  ["GET", /^\/v1\/refunds$/, "RefundListParams", "ApiList<Stripe.Refund>"],
  ["GET", /^\/v1\/refunds\/\w+$/, "RefundRetrieveParams", "Refund"],
  ["GET", /^\/v1\/charges$/, "ChargeListParams", "ApiList<Stripe.Charge>"],
  ["GET", /^\/v1\/charges\/\w+$/, "ChargeRetrieveParams", "Charge"],
  ["GET", /^\/v1\/balance_transactions$/, "BalanceTransactionListParams", "ApiList<Stripe.BalanceTransaction>"],
  ["GET", /^\/v1\/balance_transactions\/\w+$/, "BalanceTransactionRetrieveParams", "BalanceTransaction"],
  ["GET", /^\/v1\/events$/, "EventListParams", "ApiList<Stripe.Event>"],
  ["GET", /^\/v1\/events\/\w+$/, "EventRetrieveParams", "Event"],
  ["POST", /^\/v1\/webhook_endpoints$/, "WebhookEndpointCreateParams", "WebhookEndpoint"],
  ["GET", /^\/v1\/webhook_endpoints$/, "WebhookEndpointListParams", "ApiList<Stripe.WebhookEndpoint>"],
  ["POST", /^\/v1\/webhook_endpoints\/\w+$/, "WebhookEndpointUpdateParams", "WebhookEndpoint"],
  ["GET", /^\/v1\/webhook_endpoints\/\w+$/, "WebhookEndpointRetrieveParams", "WebhookEndpoint"],
];

/// `a[b]=1&c[]=x` as the object that a client would have been given. What looks like a number or a boolean is one, since
/// a form has only texts; metadata takes either.
function decoded(form) {
  const object = {};
  for (const [key, text] of form) {
    const path = key.replaceAll("]", "").split("[");
    const last = path.pop();
    let place = object;
    path.forEach((name, at) => {
      const isArray = (path[at + 1] ?? last) === "";
      place = place[name] ??= isArray ? [] : {};
    });
    const value = /^-?\d+$/.test(text) ? Number(text) : ["true", "false"].includes(text) ? text === "true" : text;
    if (Array.isArray(place)) place.push(value);
    else place[last] = value;
  }
  return object;
}

const [file] = process.argv.slice(2);
const spoken = readFileSync(file, "utf8").split("\n").filter(Boolean).map((line) => JSON.parse(line));
const lines = ['import Stripe from "stripe";'];
const said = [""];
let answers = 0;
const unknown = [];
for (const { method, path, form, status, answer } of spoken) {
  const endpoint = endpoints.find(([its, pattern]) => its === method && pattern.test(path));
  if (!endpoint) {
    unknown.push(`${method} ${path} is no endpoint that is known here`);
    continue;
  }
  const [, , params, resource] = endpoint;
  lines.push(`export const form${lines.length}: Stripe.${params} = ${JSON.stringify(decoded(form))};`);
  said.push(`the form of ${method} ${path}`);
  if (status !== 200) continue;
  answers += 1;
  lines.push(`export const answer${lines.length}: Stripe.${resource} = ${JSON.stringify(answer)};`);
  said.push(`the answer of ${method} ${path}`);
}

// The file stands beside node_modules, in memory only.
const here = dirname(fileURLToPath(import.meta.url));
const source = join(here, "spoken.ts");
const options = {
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  types: [],
  lib: ["lib.es2022.d.ts", "lib.dom.d.ts"],
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  target: ts.ScriptTarget.ES2022,
};
const host = ts.createCompilerHost(options);
const [read, exists] = [host.readFile.bind(host), host.fileExists.bind(host)];
host.readFile = (name) => (name === source ? lines.join("\n") : read(name));
host.fileExists = (name) => name === source || exists(name);
const original = host.getSourceFile.bind(host);
host.getSourceFile = (name, language, ...rest) =>
  name === source ? ts.createSourceFile(name, lines.join("\n"), language) : original(name, language, ...rest);
const program = ts.createProgram([source], options, host);
const wrong = ts.getPreEmitDiagnostics(program).map((found) => {
  const message = ts.flattenDiagnosticMessageText(found.messageText, "\n");
  if (found.file?.fileName !== source) return `${found.file?.fileName ?? "stripe"}: ${message}`;
  return `${said[found.file.getLineAndCharacterOfPosition(found.start).line]}: ${message}`;
});
for (const line of [...unknown, ...wrong]) console.error(line);
console.log(`${spoken.length} forms and ${answers} answers checked`);
process.exit(unknown.length + wrong.length === 0 && spoken.length > 0 ? 0 : 1);
