// Two tasks, and a receiver of callbacks, without any package: SECRET=whsec_… PORT=8080 node billing.mjs
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const key = Buffer.from(process.env.SECRET.slice("whsec_".length), "base64");
const results = new Map(); // by Idempotency-Key; a real server keeps them in the transaction that does the work
const runs = new Map(); // reports that are being written, by id
const ended = new Set(); // ids of events

function isSigned(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": at = "", "webhook-signature": signatures = "" } = headers;
  if (!id || !/^\d{1,15}$/.test(at) || Math.abs(Date.now() / 1000 - at) > 300) return false;
  const wanted = createHmac("sha256", key).update(`${id}.${at}.`).update(body).digest();
  return signatures.split(" ").some((one) => {
    const given = Buffer.from(one.slice("v1,".length), "base64");
    return one.startsWith("v1,") && given.length === wanted.length && timingSafeEqual(given, wanted);
  });
}

function charge({ attempt, kwargs: { customer, amount } }) {
  if (customer === "broke") return { error: { type: "CardDeclined", message: "There is no money." } };
  if (customer === "busy" && attempt < 3) return { error: { type: "Busy", message: "Try again.", retry: 0.1 } };
  return { result: { customer, charged: amount } };
}

function progress(id) {
  const run = runs.get(id);
  run.done = Math.min(run.done + 1, run.pages);
  if (run.done < run.pages) return [202, { progress: { done: run.done, total: run.pages } }, { "retry-after": "0" }];
  return [200, { result: `a report of ${run.pages} pages` }];
}

function answer({ method, url, headers }, body) {
  if (!isSigned(headers, body)) return [401, { detail: "This is not signed." }];
  if (method === "GET" && runs.has(url.slice("/report/".length))) return progress(url.slice("/report/".length));
  if (method !== "POST") return [404, { detail: "There is nothing here." }];
  const call = JSON.parse(body);
  switch (url) {
    case "/charge": {
      const once = headers["idempotency-key"]; // the same in each attempt
      if (!results.has(once)) {
        const found = charge(call);
        if (found.error) return [200, found]; // an error may pass: only what was done is remembered
        results.set(once, found);
      }
      return [200, results.get(once)];
    }
    case "/report":
      if (!runs.has(call.id)) runs.set(call.id, { done: 0, pages: call.args[0] });
      return [202, {}, { location: `/report/${call.id}`, "retry-after": "0" }];
    case "/ended":
      if (!ended.has(call.id)) console.log(`${call.data.task} ended: ${call.data.state}`);
      ended.add(call.id);
      return [204];
  }
  return [404, { detail: "There is nothing here." }];
}

const server = createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  try {
    const [status, document, headers = {}] = answer(request, Buffer.concat(parts));
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end(document && JSON.stringify(document));
  } catch (error) {
    response.writeHead(500).end(); // Celeriac tries again
    console.error(error);
  }
});

server.listen(process.env.PORT ?? 8080, "127.0.0.1", () => {
  console.log(`Running on http://127.0.0.1:${server.address().port}`);
});
