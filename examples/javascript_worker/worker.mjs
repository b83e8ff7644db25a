// Runs tasks of shop.py in JavaScript. Start it with the address of `celeriac web`:
//
//     node worker.mjs http://127.0.0.1:8000

import { Retry, Worker } from "./celeriac.mjs";

const worker = new Worker({
  url: process.argv[2] ?? "http://127.0.0.1:8000",
  token: process.env.WORKER_TOKEN,
  queues: ["javascript"],
  concurrency: 4,
});

worker.task("shop.slug", (job, title, { separator = "-" }) =>
  title.toLowerCase().match(/[a-z0-9]+/g).join(separator),
);

worker.task("shop.page", async (job, url) => {
  const answer = await fetch(url, { signal: job.signal }); // it ends with the task
  if (answer.status >= 500) throw new Retry(`${url} says ${answer.status}`);
  return { status: answer.status, bytes: (await answer.arrayBuffer()).byteLength };
});

await worker.run();
