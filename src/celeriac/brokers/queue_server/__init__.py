"""The base of brokers for queue servers: RabbitMQ, and others that push messages and forget their ids.

Such a server keeps queues, pushes messages to consumers up to a window, wants each message acknowledged, and puts back
what a lost connection had not acknowledged. It cannot find a message by its id, and knows nothing of pauses,
revocations or workers. This package makes a `Broker` of it, and knows no protocol: a protocol is a driver, a topology
and a transport, of which `brokers/amqp` is an example. To write another one:

1. Write the driver (`drivers/<protocol>`): connections for threads and for event loops, which carry out *procedures*,
   generators that yield requests and receive the answers.
2. Derive from `Topology`: which names the server accepts, and whether its queues sort by priority. If they do not,
   each priority of a lane is a *line* of its own. A line is a queue of the server.
3. Derive from `Transport`, `WorkerConnection`, `Inspection`, `Taken` and `Subscription` (`transport.py`), whose
   docstrings are the contract. `server_transport.py` has what follows from a driver's `MessageServer`.
4. Derive from `QueueServerBroker`, and let the conformance suite (`tests/test_brokers.py`) run against it.

What the transport must provide, and what the base makes of it:

| the transport                                    | the base                                                          |
|--------------------------------------------------|-------------------------------------------------------------------|
| `publish` with confirms; `exists`, `declare`     | `sender`: declares missing lines, sends again what reached none   |
| `consume` with a window, `cancel`                | `consumer`, `consumers`: windows that fit the free slots (P9)     |
| messages that are pushed; `losses`               | `intake`: deliveries, their counts, poison, surplus, delays       |
| `acknowledge`                                    | `lease`, `unacked`: tokens and settlements                        |
| the end of a connection puts messages back       | `lease`: the lease is the connection                              |
| a durable queue with one reader, and broadcasts  | `journal`: lines, pauses, revocations, inspections                |
| broadcasts, and a count of connected workers     | `presence`: the workers, and what they hold                       |
| `size`, `purge`, `taking`                        | `operations`: counts, peek, dead letters                          |
| delays, or queues that lead to them; or none of  | due times: what must wait longer than they last is sent back.     |
| it: `holds_delayed = Holds.NEVER`                | `delays`: what waits is kept in a store; `mover` takes it out     |

Two rules keep it safe. A message that goes elsewhere (RETURN, BURY, surplus) is sent, confirmed, and only then
acknowledged: a crash in between duplicates it, and never loses it. And the envelope marks messages that may have been
sent twice, so that a worker asks the backend before it runs one again. Acknowledgements need no confirm for the same
reason.

What runs for each message is `Transport.publish`, `Intake.deliver` and `Intake.acknowledge`: the base adds no await, no
copy and no object to what the protocol needs there. `Intake.deliver` reads the driver's own message class (`Pushed`).
"""

from celeriac.brokers.queue_server.broker import QueueServerBroker

__all__ = ["QueueServerBroker"]
