"""What the Python peers share: the command line that `run` speaks to, and the clock. The same as rust/common.

A peer's module has a class `PEER` with `name`, `unfinished` (a query for one boolean) and the coroutines
`install(url)`, `producer(url, connections)`, which returns an object with `enqueue(job)` and `enqueue_all(jobs)`, and
`worker(url)`, which connects and returns the coroutine function that works until it is cancelled.
"""

import asyncio
import importlib.metadata
import json
import math
import os
import sys
import threading
import time

import uvloop

# Connections that enqueue at the same time.
PRODUCERS = 8
# How often a worker says how many jobs it has handled.
REPORT_INTERVAL_S = 0.005
# Seconds of `latency` that are run first and not counted.
WARM_UP_S = 2
# How long after the last job was sent `latency` waits for it to start.
LATENCY_DEADLINE_S = 60
CHECK_INTERVAL_S = 0.02

started_count = 0
started_at = {}
sent_at = {}


def started(job):
    """Called by a handler as the first thing it does."""
    global started_count
    started_at[job] = time.perf_counter()
    started_count += 1


def run(peer):
    """Does what the command line says, on uvloop, the event loop of pgqueuer's own benchmark."""
    uvloop.run(do(peer, *sys.argv[1:]))
    sys.stdout.flush()
    os._exit(0)  # Some peers would wait for their listeners.


async def do(peer, command=None, url=None, *numbers):
    version = importlib.metadata.version(peer.name)
    match command, [int(number) for number in numbers]:
        case "about", []:
            say({"version": version, "unfinished": peer.unfinished})
        case "schema", []:
            await peer.install(url)
        case "fill", [jobs]:
            await (await peer.producer(url, 1)).enqueue_all(jobs)
        case "work", []:
            await work(peer, url)
        case "enqueue", [jobs]:
            say({"peer": peer.name, "version": version, "case": "enqueue", **await enqueue(peer, url, jobs)})
        case "latency", [rate, seconds]:
            say({"peer": peer.name, "version": version, "case": "latency", **await latency(peer, url, rate, seconds)})
        case _:
            sys.exit("about | schema URL | fill URL N | work URL | enqueue URL N | latency URL RATE SECONDS")


def say(result):
    print(json.dumps(result), flush=True)


async def work(peer, url):
    """Says `ready` once connected, works when told to go, and ends with its input."""
    start = await peer.worker(url)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    threading.Thread(target=lambda: (sys.stdin.readline(), os._exit(0)), daemon=True).start()
    reporter = asyncio.create_task(report())
    await start()
    reporter.cancel()


async def report():
    said = 0
    while True:
        if started_count != said:
            said = started_count
            print(f"handled {said}", flush=True)
        await asyncio.sleep(REPORT_INTERVAL_S)


async def enqueue(peer, url, jobs):
    producers = await peer.producer(url, PRODUCERS)
    left = iter(range(jobs))

    async def send_next():
        for job in left:
            await producers.enqueue(job)

    start = time.perf_counter()
    await asyncio.gather(*(send_next() for _ in range(PRODUCERS)))
    one_by_one_s = time.perf_counter() - start

    producer = await peer.producer(url, 1)
    start = time.perf_counter()
    await producer.enqueue_all(jobs)
    bulk_s = time.perf_counter() - start
    return {"jobs": jobs, "one_by_one_per_s": round(jobs / one_by_one_s), "bulk_per_s": round(jobs / bulk_s)}


async def latency(peer, url, rate, seconds):
    warm_up = rate * WARM_UP_S
    jobs = warm_up + rate * seconds
    worker = asyncio.create_task((await peer.worker(url))())
    await send_at_rate(await peer.producer(url, PRODUCERS), jobs, rate)

    deadline = time.perf_counter() + LATENCY_DEADLINE_S
    while started_count < jobs:
        if worker.done() or time.perf_counter() > deadline:
            sys.exit("some jobs were never started")
        await asyncio.sleep(CHECK_INTERVAL_S)
    ms = sorted((started_at[job] - sent_at[job]) * 1000 for job in range(warm_up, jobs))

    def percentile(p):
        return round(ms[min(math.floor(len(ms) * p / 100), len(ms) - 1)], 2)

    return {"rate": rate, "seconds": seconds, "p50_ms": percentile(50), "p99_ms": percentile(99)}


async def send_at_rate(producer, jobs, rate):
    """Sends each job when its time has come, whether or not the ones before it are through."""

    async def send(job):
        sent_at[job] = time.perf_counter()
        await producer.enqueue(job)

    start = time.perf_counter()
    sends = []
    for job in range(jobs):
        wait = start + job / rate - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        sends.append(asyncio.create_task(send(job)))
    await asyncio.gather(*sends)
