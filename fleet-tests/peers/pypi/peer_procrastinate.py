"""procrastinate. The settings are from its docs/howto/production and the reference of `App.run_worker_async`."""

import procrastinate

import common

QUEUE = "noop"
# howto/production/concurrency.md: `run_worker(concurrency=30)`.
CONCURRENCY = 30
# howto/production/delete_finished_jobs.md: the default. Deleting finished jobs was no faster.
DELETE_JOBS = "never"
# howto/production/connections.md, `max_size`: one for each sub-worker and one to listen.
CONNECTIONS = CONCURRENCY + 1
# Jobs in one `batch_defer_async`, the bulk call of howto/basics/batch_defer.md.
BULK = 5_000


def app_for(url, connections):
    connector = procrastinate.PsycopgConnector(conninfo=url, min_size=connections, max_size=connections)
    app = procrastinate.App(connector=connector)

    @app.task(name="noop", queue=QUEUE)
    async def noop(job):
        common.started(job)

    return app, noop


class Procrastinate:
    name = "procrastinate"
    unfinished = "select exists (select from procrastinate_jobs where status in ('todo', 'doing'))"

    @staticmethod
    async def install(url):
        app, _ = app_for(url, 1)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    @staticmethod
    async def producer(url, connections):
        app, noop = app_for(url, connections)
        await app.open_async()
        return Producer(noop)

    @staticmethod
    async def worker(url):
        app, _ = app_for(url, CONNECTIONS)
        await app.open_async()

        async def work():
            await app.run_worker_async(
                queues=[QUEUE], concurrency=CONCURRENCY, delete_jobs=DELETE_JOBS, install_signal_handlers=False
            )

        return work


class Producer:
    def __init__(self, noop):
        self.noop = noop

    async def enqueue(self, job):
        await self.noop.defer_async(job=job)

    async def enqueue_all(self, jobs):
        for first in range(0, jobs, BULK):
            batch = ({"job": job} for job in range(first, min(first + BULK, jobs)))
            await self.noop.batch_defer_async(*batch)


PEER = Procrastinate
