// graphile-worker. The settings are those of its website/docs/performance.md and perfTest/graphile.config.js.

import { Logger, makeWorkerUtils, run as runWorker } from "graphile-worker";
import { run, started } from "./common.mjs";

/** performance.md, "Quick stats": 24 jobs at a time and one connection more. */
const CONCURRENT_JOBS = 24;
const CONNECTIONS = 25;
/** performance.md, "Quick stats": jobs are fetched 500 at a time, finished ones are written together. */
const BATCHING = { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 };
/** Jobs in one `addJobs`, the bulk call of website/docs/library/add-jobs.md. */
const BULK = 10_000;

/** The errors only: its own CLI has NO_LOG_SUCCESS for the same in perfTest/run.js. */
const logger = new Logger(() => (level, message) => {
  if (level === "error") console.error(message);
});

const preset = (connectionString, maxPoolSize) => ({ worker: { connectionString, maxPoolSize } });

async function utilsFor(url, connections) {
  return makeWorkerUtils({ preset: preset(url, connections), logger });
}

await run({
  name: "graphile-worker",
  unfinished: "select exists (select from graphile_worker._private_jobs)",

  async install(url) {
    const utils = await utilsFor(url, 2);
    await utils.migrate();
    await utils.release();
  },

  async producer(url, connections) {
    const utils = await utilsFor(url, Math.max(connections, 2));
    return {
      enqueue: (job) => utils.addJob("noop", { job }),
      async enqueueAll(jobs) {
        for (let first = 0; first < jobs; first += BULK) {
          const length = Math.min(BULK, jobs - first);
          await utils.addJobs(Array.from({ length }, (_, i) => ({ identifier: "noop", payload: { job: first + i } })));
        }
      },
    };
  },

  async worker(url) {
    const utils = await utilsFor(url, 2);
    await utils.withPgClient((client) => client.query("select 1"));
    await utils.release();
    const options = preset(url, CONNECTIONS);
    Object.assign(options.worker, BATCHING, { concurrentJobs: CONCURRENT_JOBS });
    const noop = async ({ job }) => started(job);
    return () => runWorker({ preset: options, taskList: { noop }, parsedCronItems: [], logger });
  },
});
