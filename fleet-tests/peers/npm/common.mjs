// What the Node.js peers share: the command line that `run` speaks to, and the clock. The same as rust/common.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

/** Connections that enqueue at the same time. */
const PRODUCERS = 8;
/** How often a worker says how many jobs it has handled. */
const REPORT_INTERVAL_MS = 5;
/** Seconds of `latency` that are run first and not counted. */
const WARM_UP_S = 2;
/** How long after the last job was sent `latency` waits for it to start. */
const LATENCY_DEADLINE_MS = 60_000;
const CHECK_INTERVAL_MS = 20;

let startedCount = 0;
const sentAt = [];
const startedAt = [];

/** Called by a handler as the first thing it does. */
export function started(job) {
  startedAt[job] = performance.now();
  startedCount += 1;
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Does what the command line says. A peer has `name`, `unfinished` (a query for one boolean), and the functions
 * `install(url)`, `producer(url, connections)` with `enqueue(job)` and `enqueueAll(jobs)`, and `worker(url)`, which
 * connects and returns the function that starts it.
 */
export async function run(peer) {
  const [command, url, ...numbers] = process.argv.slice(2);
  const [first, second] = numbers.map(Number);
  const version = createRequire(import.meta.url)(`./node_modules/${peer.name}/package.json`).version;
  const say = (result) => console.log(JSON.stringify(result).replaceAll('":', '": ').replaceAll(',"', ', "'));
  switch (command) {
    case "about":
      return say({ version, unfinished: peer.unfinished });
    case "schema":
      await peer.install(url);
      break;
    case "fill":
      await (await peer.producer(url, 1)).enqueueAll(first);
      break;
    case "work":
      return work(peer, url);
    case "enqueue":
      say({ peer: peer.name, version, case: "enqueue", jobs: first, ...(await enqueue(peer, url, first)) });
      break;
    case "latency":
      say({ peer: peer.name, version, case: "latency", ...(await latency(peer, url, first, second)) });
      break;
    default:
      throw new Error("about | schema URL | fill URL N | work URL | enqueue URL N | latency URL RATE SECONDS");
  }
  process.exit(0);
}

/** Says `ready` once connected, works when told to go, and ends with its input. */
async function work(peer, url) {
  const start = await peer.worker(url);
  console.log("ready");
  const input = createInterface({ input: process.stdin });
  input.once("line", async () => {
    let said = 0;
    setInterval(() => {
      if (startedCount !== said) process.stdout.write(`handled ${(said = startedCount)}\n`);
    }, REPORT_INTERVAL_MS);
    await start();
  });
  input.once("close", () => process.exit(0));
}

async function enqueue(peer, url, jobs) {
  let producer = await peer.producer(url, PRODUCERS);
  let next = 0;
  const sendNext = async () => {
    while (next < jobs) await producer.enqueue(next++);
  };
  let start = performance.now();
  await Promise.all(Array.from({ length: PRODUCERS }, sendNext));
  const oneByOneMs = performance.now() - start;

  producer = await peer.producer(url, 1);
  start = performance.now();
  await producer.enqueueAll(jobs);
  const bulkMs = performance.now() - start;
  return {
    one_by_one_per_s: Math.round((jobs * 1000) / oneByOneMs),
    bulk_per_s: Math.round((jobs * 1000) / bulkMs),
  };
}

async function latency(peer, url, rate, seconds) {
  const warmUp = rate * WARM_UP_S;
  const jobs = warmUp + rate * seconds;
  await (await peer.worker(url))();
  await sendAtRate(await peer.producer(url, PRODUCERS), jobs, rate);

  const deadline = performance.now() + LATENCY_DEADLINE_MS;
  while (startedCount < jobs) {
    if (performance.now() > deadline) throw new Error("some jobs were never started");
    await sleep(CHECK_INTERVAL_MS);
  }
  const ms = startedAt.map((at, job) => at - sentAt[job]).slice(warmUp).sort((a, b) => a - b);
  const percentile = (p) => Number(ms[Math.min(Math.floor((ms.length * p) / 100), ms.length - 1)].toFixed(2));
  return { rate, seconds, p50_ms: percentile(50), p99_ms: percentile(99) };
}

/** Sends each job when its time has come, whether or not the ones before it are through. */
async function sendAtRate(producer, jobs, rate) {
  const start = performance.now();
  const sends = [];
  for (let job = 0; job < jobs; job++) {
    const wait = start + (job * 1000) / rate - performance.now();
    if (wait > 0) await sleep(wait);
    sentAt[job] = performance.now();
    sends.push(producer.enqueue(job));
  }
  await Promise.all(sends);
}
