// A worker for Celeriac in JavaScript: one file, no packages, Node.js 18 or later.
//
//     import { Worker, Retry } from "./celeriac.mjs";
//     const worker = new Worker({ url: "http://127.0.0.1:8000", queues: ["images"], concurrency: 4 });
//     worker.task("images.resize", async (job, path, { width }) => …);
//     await worker.run();
//
// It follows docs/reference/http-worker.md. In short: it says with each request which tokens it holds, renews its lease
// three times in its length, and keeps a settlement until it is answered. So it can be killed at any moment, and so can
// the server.

import { hostname } from "node:os";

const LONGEST_WAIT = 30; // seconds, of one request for tasks
const PAUSES = [100, 5000]; // milliseconds: the first and the longest, while the server cannot be reached

/** Throw it to run the task again: after `delay` seconds, or after the pause of the task's own policy. */
export class Retry extends Error {
  constructor(message = "", delay = null) {
    super(message);
    this.name = "Retry";
    this.delay = delay;
  }
}

/** Throw it to make a dead letter of the message. */
export class Reject extends Error {
  name = "Reject";
}

/** What the server refuses. It will refuse it again. */
export class Refused extends Error {
  constructor(status, problem) {
    super(`${problem.title ?? status}: ${problem.detail ?? ""}`);
    this.name = "Refused";
    this.status = status;
    this.type = (problem.type ?? "").replace("urn:celeriac:problem:", "");
  }
}

export class Worker {
  /**
   * url, queues: required. token: of `celeriac web token add … --scope leases:work`. concurrency: tasks at a time.
   * grace: seconds for running tasks after SIGTERM. leaseSeconds: how long the worker may be silent.
   */
  constructor({ url, queues, token = null, name = null, concurrency = 1, grace = 25, leaseSeconds = null, log = console.error }) {
    this.url = url.replace(/\/$/, "");
    this.queues = queues;
    this.name = name ?? `node@${hostname()}.${process.pid}`;
    this.concurrency = concurrency;
    this.grace = grace;
    this.leaseSeconds = leaseSeconds;
    this.log = log;
    this.headers = { "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    this.tasks = new Map();
    this.held = new Map(); // token → job: all that was received, until its settlement is answered
    this.endings = []; // what is to be settled
    this.stopping = false;
    this.over = new AbortController(); // nothing runs any more, and no heartbeat is needed
  }

  /** Register a function for a task. It gets the job, then the task's arguments, then its keyword arguments. */
  task(name, run) {
    this.tasks.set(name, run);
    return this;
  }

  /** Work until `stop` is called, or SIGTERM or SIGINT arrives. */
  async run() {
    const stop = () => this.stop();
    process.on("SIGTERM", stop).on("SIGINT", stop);
    await this.enter();
    this.log(`${this.name} is ready and receives from: ${this.queues.join(", ")}`);
    const beating = this.beat();
    const settling = this.settleAll();
    await this.receiveAll();
    await this.drain();
    this.over.abort();
    this.wake();
    await Promise.all([settling, beating]);
    await this.request("DELETE", "").catch((error) => this.log(`The lease could not be ended, and expires: ${error.message}`));
    process.off("SIGTERM", stop).off("SIGINT", stop);
    this.log(`${this.name} has stopped`);
  }

  /** Receive no more, give what runs the grace time, and return the rest. */
  stop() {
    this.stopping = true;
    this.receiving?.abort();
    this.wake();
  }

  // --- The duties ------------------------------------------------------------------------------------

  async enter() {
    const body = { name: this.name, queues: this.queues, tasks: [...this.tasks.keys()], host: hostname(), pid: process.pid };
    if (this.leaseSeconds) body.lease_seconds = this.leaseSeconds;
    this.lease = await this.insist(() => this.send("POST", "/api/v1/leases", body));
  }

  async receiveAll() {
    while (!this.stopping) {
      const free = this.concurrency - this.held.size;
      if (free <= 0) {
        await this.woken(1000);
        continue;
      }
      this.receiving = new AbortController();
      try {
        // One request at a time: when it says what is held, everything that was received before is known here.
        const path = `/receive?limit=${free}&wait=${LONGEST_WAIT}`;
        const answer = await this.request("POST", path, { holds: [...this.held.keys()] }, this.receiving.signal);
        for (const delivery of answer.deliveries) this.start(delivery);
        this.lose(answer.lost);
        this.pause = PAUSES[0];
      } catch (error) {
        if (!this.stopping) await this.trouble(error);
      }
    }
  }

  async beat() {
    let failed = false;
    while (!this.over.signal.aborted) {
      await sleep(failed ? Math.min(1000, this.lease.renew_seconds * 300) : this.lease.renew_seconds * 1000, this.over.signal);
      if (this.over.signal.aborted) return;
      try {
        const answer = await this.request("POST", "/renew", { holds: [...this.held.keys()] });
        this.lose(answer.lost);
        for (const token of answer.terminate) this.abort(token, "REVOKED");
        for (const token of answer.overdue) this.abort(token, "TIMEOUT");
        if (answer.stop) this.stop();
        failed = false;
      } catch (error) {
        if (!failed) this.log(`The lease could not be renewed, trying again: ${error.message}`);
        failed = true;
      }
    }
  }

  async settleAll() {
    while (!this.over.signal.aborted || this.endings.length) {
      if (!this.endings.length) {
        await this.woken(1000);
        continue;
      }
      const batch = this.endings.splice(0, 100);
      const settled = await this.insist(() => this.settle(batch));
      for (const { token, accepted } of settled) {
        if (!accepted) this.log(`Discarded: another worker has ${this.held.get(token)?.id ?? token}`);
        this.held.delete(token);
      }
      this.wake();
    }
  }

  async settle(batch) {
    try {
      return (await this.request("POST", "/settle", { settlements: batch })).settlements;
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 413) throw error;
      if (batch.length === 1) {
        const { token } = batch[0]; // this one alone is too large
        batch = [{ token, state: "FAILURE", error: { type: "TooLarge", message: error.message } }];
        return (await this.request("POST", "/settle", { settlements: batch })).settlements;
      }
      const half = batch.length >> 1;
      return [...(await this.settle(batch.slice(0, half))), ...(await this.settle(batch.slice(half)))];
    }
  }

  /** Wait for what runs, as long as the grace time lasts; then return it. */
  async drain() {
    const deadline = Date.now() + this.grace * 1000;
    while (this.held.size && Date.now() < deadline) await this.woken(Math.min(1000, deadline - Date.now()));
    for (const token of this.held.keys()) this.abort(token, "RETURN");
  }

  // --- Tasks -----------------------------------------------------------------------------------------

  start(delivery) {
    const aborting = new AbortController();
    const job = { ...delivery, signal: aborting.signal, aborting, progress: (result) => this.progress(delivery.token, result) };
    this.held.set(delivery.token, job);
    if (this.stopping) return this.end(job, { state: "RETURN" }); // it was on its way
    if (job.time_limit !== null) job.timer = setTimeout(() => this.abort(job.token, "TIMEOUT"), job.time_limit * 1000);
    this.execute(job);
  }

  async execute(job) {
    const begun = performance.now();
    let ending;
    try {
      const run = this.tasks.get(job.task);
      if (!run) throw new Error(`no function for ${job.task}`);
      const result = await run(job, ...job.args, job.kwargs);
      ending = { state: "SUCCESS", result: result ?? null };
      JSON.stringify(ending); // what it cannot encode is a failure of the task
    } catch (thrown) {
      const error = describe(thrown);
      if (thrown instanceof Retry) ending = { state: "RETRY", error, delay: thrown.delay };
      else if (thrown instanceof Reject) ending = { state: "REJECTED", error };
      else ending = { state: "FAILURE", error };
    }
    this.end(job, { ...ending, runtime: (performance.now() - begun) / 1000 });
  }

  end(job, ending) {
    if (job.ended) return;
    job.ended = true;
    clearTimeout(job.timer);
    this.endings.push({ token: job.token, ...ending });
    this.wake();
  }

  /** End a task that has not ended by itself. Its function sees `job.signal`, and its value is discarded. */
  abort(token, state) {
    const job = this.held.get(token);
    if (!job || job.ended) return;
    job.aborting.abort();
    this.end(job, { state });
  }

  /** Stop what this worker no longer holds: nothing that it says of that is accepted. */
  lose(tokens) {
    for (const token of tokens) {
      const job = this.held.get(token);
      if (!job || job.ended) continue;
      this.log(`Lost ${job.task}[${job.id}]: the lease has expired, and another worker runs it`);
      job.ended = true;
      job.aborting.abort();
      this.held.delete(token);
    }
  }

  async progress(token, result) {
    await this.request("POST", "/settle", { settlements: [{ token, state: "PROGRESS", result }] });
  }

  // --- Requests --------------------------------------------------------------------------------------

  request(method, path, body, signal) {
    return this.send(method, `/api/v1/leases/${encodeURIComponent(this.lease.lease)}${path}`, body, signal);
  }

  async send(method, path, body, signal) {
    const ending = new AbortController();
    const abort = () => ending.abort(signal?.aborted ? undefined : new Error("no answer"));
    const timer = setTimeout(abort, (LONGEST_WAIT + 15) * 1000); // a server that hangs is a server that is gone
    signal?.addEventListener("abort", abort);
    let answer, text;
    try {
      const json = body === undefined ? undefined : JSON.stringify(body);
      answer = await fetch(this.url + path, { method, headers: this.headers, body: json, signal: ending.signal });
      text = await answer.text();
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
    if (answer.status === 204) return null;
    if (answer.ok) return JSON.parse(text);
    let problem = {};
    try {
      problem = JSON.parse(text);
    } catch {} // from a proxy
    if (answer.status >= 500 || [408, 429].includes(answer.status)) throw new Error(`${answer.status} ${problem.detail ?? ""}`);
    throw new Refused(answer.status, problem);
  }

  /** Repeat what fails because the server is away. What it refuses is an error. */
  async insist(work) {
    for (;;) {
      try {
        const answer = await work();
        this.pause = PAUSES[0];
        return answer;
      } catch (error) {
        if (error instanceof Refused) throw error;
        await this.trouble(error);
      }
    }
  }

  async trouble(error) {
    if (error instanceof Refused) throw error;
    this.pause ??= PAUSES[0];
    if (this.pause === PAUSES[0]) this.log(`The server cannot be reached, trying again: ${error.cause?.message ?? error.message}`);
    await sleep(this.pause * (0.5 + Math.random() / 2));
    this.pause = Math.min(this.pause * 2, PAUSES[1]);
  }

  // --- Waiting ---------------------------------------------------------------------------------------

  woken(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      (this.sleepers ??= []).push(() => (clearTimeout(timer), resolve()));
    });
  }

  wake() {
    const sleepers = this.sleepers ?? [];
    this.sleepers = [];
    for (const sleeper of sleepers) sleeper();
  }
}

function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()));
  });
}

function describe(thrown) {
  if (!(thrown instanceof Error)) return { type: "Error", message: String(thrown) };
  return { type: thrown.name || "Error", message: thrown.message, traceback: thrown.stack ?? "" };
}
