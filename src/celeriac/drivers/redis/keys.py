"""Every key, channel and script. `P` is the setting `redis_prefix` ("celeriac"); a queue's keys share its hash tag.

Of a queue:

    P:{queue}:messages        hash    id → three letters (lane p or c, priority 0 to 9, l late or o once) and the
                                      message in MessagePack; from `publish` to its settlement, dead letters too. A
                                      message whose id is here is not stored again.
    P:{queue}:ready:p5 …      list    ids that can be received: one list for each lane and priority, taken from the left
    P:{queue}:due             zset    id → when it is due. It comes in front of its line then.
    P:{queue}:held:LEASE      hash    id → receipt:deliveries, and a tail of blanks; what this lease holds. A receipt
                                      below 0: taken over, not to be run again. The token is LEASE:receipt:deliveries.
    P:{queue}:counts          hash    id → how often it was handed out without coming back, where that is not 0
    P:{queue}:dead            zset    id → since when it is a dead letter
    P:{queue}:reasons         hash    id → why
    P:{queue}:ended:SPELL     set     ids that ended without an outcome in these 20 s; expires 40 s after the last. Who
                                      sends a message again, for he does not know whether it arrived, looks here
    P:{queue}:waiters:p, :c   set     leases that wait for a message of this lane; one is taken out, and rung for

Of all queues:

    P:queues                  set     names of queues that have ever had a message
    P:paused                  set     names of queues that nobody receives from
    P:revoked                 zset    id → until when it is revoked; expires with the last
    P:leases                  zset    lease → when it runs out
    P:workers                 hash    lease → [seconds, WorkerInfo] in JSON
    P:fences                  hash    lease → requests with a receipt below this come too late

Of results:

    P:outcome:ID              string  1 (final) or 0, and the outcome in MessagePack; expires after `result_expires`
    P:recent                  list    ids whose outcomes were stored last, the newest first, 10,000 at most; expires
                                      likewise

Of workflows:

    P:workflow:ID             hash    `tree` (MessagePack; never changed), `left` (tasks that have not ended), and by
                                      the number of a join how many of its members have not ended. Expires as outcomes
                                      do when nothing is left, else 30 days after anything has happened in it
    P:dues                    zset    ID:NODE → until when a worker is at it. A node that has ended, and what follows
                                      from that has not been done

Channels (`PUBLISH`):

    P:bell:LEASE              empty: there may be something to receive
    P:done:0 … P:done:63      what has ended: for each the length of its id, NUL, the id, the length of its value,
                              NUL, the value as in P:outcome; above 4 KiB no length and no value. The number is
                              crc32(id) mod 64
    P:broadcast:NAME          control commands, their answers, events

Scripts stand in `scripts`, each under the list of its arguments and its answer. KEYS[1] is always `P:queues`, and
ARGV[1] the prefix. Those that change messages of one queue alone (`publish`, `publish_one`, `purge`, `bring_out`,
`peek`) touch keys of that queue's tag, and P:queues; `receive` and `sweep` go over many queues; `settle` touches the
queues of a batch, of its follow-ups and of a request for messages that it takes along, P:outcome and P:workflow, as
does `advance`; `publish_again` looks at P:outcome too. On Redis Cluster all of them must therefore be in one slot:
give the prefix a hash tag (`redis_prefix = "{celeriac}"`), and name the node that has the slot; more is not done yet.
The tags of the queues are there so that a client for Cluster can spread them later, without a change of the keys.
"""
