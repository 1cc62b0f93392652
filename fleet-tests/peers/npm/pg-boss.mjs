// pg-boss. The settings are from its docs/api/workers.md, docs/api/constructor.md and docs/introduction.md.

import { PgBoss } from "pg-boss";
import { run, started } from "./common.mjs";

const QUEUE = "noop";
/** workers.md, `batchSize`: jobs in one fetch; a batch is completed with one statement. */
const BATCH_SIZE = 1_000;
/** workers.md, `localConcurrency`: workers in one process, each with its own batch. */
const LOCAL_CONCURRENCY = 4;
const WORK_OPTIONS = {
  batchSize: BATCH_SIZE,
  localConcurrency: LOCAL_CONCURRENCY,
  // workers.md: "while each fetch returns a full batch the worker keeps fetching with no delay".
  burstWhenBatchFull: true,
};
/** constructor.md, `max`. */
const CONNECTIONS = 10;
/** Jobs in one `insert`, the bulk call of jobs.md. */
const BULK = 10_000;

async function start(url, max, options = {}) {
  const boss = new PgBoss({ connectionString: url, max, schedule: false, ...options });
  boss.on("error", console.error);
  await boss.start();
  return boss;
}

await run({
  name: "pg-boss",
  unfinished: "select exists (select from pgboss.job where name = 'noop' and state < 'completed')",

  async install(url) {
    const boss = await start(url, 2);
    // introduction.md: a partition of its own "if a queue needs to be scaled out". workers.md: `notify` wakes a worker
    // "the instant a job is created".
    await boss.createQueue(QUEUE, { partition: true, notify: true });
    await boss.stop({ graceful: false });
  },

  async producer(url, connections) {
    const boss = await start(url, connections, { supervise: false });
    return {
      enqueue: (job) => boss.send(QUEUE, { job }),
      async enqueueAll(jobs) {
        for (let first = 0; first < jobs; first += BULK) {
          const length = Math.min(BULK, jobs - first);
          await boss.insert(QUEUE, Array.from({ length }, (_, i) => ({ data: { job: first + i } })));
        }
      },
    };
  },

  async worker(url) {
    const boss = await start(url, CONNECTIONS, { useListenNotify: true });
    const noop = async (jobs) => jobs.forEach(({ data }) => started(data.job));
    return () => boss.work(QUEUE, WORK_OPTIONS, noop);
  },
});
