// The victim of remote workers: tasks of victim.py, run in JavaScript by the example's client, with the same journal.
//
//     node victim.mjs CLIENT URL NAME CONCURRENCY LEASE GRACE FOLDER

import { appendFileSync, existsSync } from "node:fs";

const [client, url, name, concurrency, lease, grace, folder] = process.argv.slice(2);
const { Retry, Worker } = await import(client);

const worker = new Worker({
  url,
  name,
  queues: ["default", "other"],
  concurrency: Number(concurrency),
  leaseSeconds: Number(lease),
  grace: Number(grace),
});

const ways = {
  returns: (value) => value,
  raises: (value) => {
    throw new TypeError(value);
  },
  holds: async (path, job) => {
    while (!existsSync(path)) {
      if (job.signal.aborted) throw new Error("aborted");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return "released";
  },
  sleeps: (value) => new Promise((resolve) => setTimeout(() => resolve(value), value * 1000)),
  dies: () => process.kill(process.pid, "SIGKILL"),
  retries: (value, job) => {
    if (job.attempt <= value) throw new Retry(`attempt ${job.attempt}`, 0.01);
    return job.attempt;
  },
};

function note(what, job) {
  const at = (Date.now() / 1000).toFixed(6);
  appendFileSync(`${folder}/journal`, `${what} ${job.id} ${job.attempt} ${job.deliveries} ${process.pid} ${at} ${name}\n`);
}

for (const task of ["victim.plain", "victim.coroutine"]) {
  worker.task(task, async (job, how, value) => {
    note("start", job);
    const found = await ways[how](value, job);
    note("end", job);
    return found;
  });
}

await worker.run();
