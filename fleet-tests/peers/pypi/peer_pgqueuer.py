"""pgqueuer. The settings are from its docs/guides/performance-tuning.md and tools/benchmark.py."""

import asyncio
import datetime

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.queries import Queries

import common

ENTRYPOINT = "noop"
# performance-tuning.md, "Batch size": "increase when jobs are short-lived"; finished jobs are written in batches of
# the same size.
BATCH_SIZE = 1_000
# tools/benchmark.py has several managers in one process, each with its connection.
MANAGERS = 2
# `dequeue_timeout`: how long a manager waits for a notification before it polls. Its default.
DEQUEUE_TIMEOUT = datetime.timedelta(seconds=30)
# Jobs in one `enqueue` with lists, the batch insert of tools/benchmark.py.
BULK = 10_000


class Pgqueuer:
    name = "pgqueuer"
    unfinished = "select exists (select from pgqueuer)"

    @staticmethod
    async def install(url):
        queries = Queries(AsyncpgDriver(await asyncpg.connect(url)))
        # `durable`, the default, keeps every table logged.
        await queries.install()
        # performance-tuning.md, "Autovacuum tuning": what `pgq autovac` does.
        await queries.optimize_autovacuum()

    @staticmethod
    async def producer(url, connections):
        # performance-tuning.md: the pool driver "for producers; a single connection for QueueManager".
        pool = await asyncpg.create_pool(url, min_size=connections, max_size=connections)
        return Producer(Queries(AsyncpgPoolDriver(pool)))

    @staticmethod
    async def worker(url):
        managers = [PgQueuer.from_asyncpg_connection(await asyncpg.connect(url)) for _ in range(MANAGERS)]
        for manager in managers:

            @manager.entrypoint(ENTRYPOINT)
            async def noop(job):
                common.started(int(job.payload))

        async def work():
            runs = (manager.run(batch_size=BATCH_SIZE, dequeue_timeout=DEQUEUE_TIMEOUT) for manager in managers)
            await asyncio.gather(*runs)

        return work


class Producer:
    def __init__(self, queries):
        self.queries = queries

    async def enqueue(self, job):
        await self.queries.enqueue(ENTRYPOINT, b"%d" % job)

    async def enqueue_all(self, jobs):
        for first in range(0, jobs, BULK):
            payloads = [b"%d" % job for job in range(first, min(first + BULK, jobs))]
            await self.queries.enqueue([ENTRYPOINT] * len(payloads), payloads, [0] * len(payloads))


PEER = Pgqueuer
