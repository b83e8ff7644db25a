"""Every key, channel and script. `P` is the setting `redis_prefix` ("celeriac"); a queue's keys share its hash tag.

Of a queue:

    P:{queue}:messages        hash    id → three letters (lane p or c, priority 0 to 9, l late or o once) and the
                                      message in MessagePack, from `publish` to its settlement; dead letters, too. A
                                      message whose id is here is not stored again
    P:{queue}:ready:p5 …      list    ids that can be received, taken from the left; a list for each lane and priority
    P:{queue}:due             zset    id → when it becomes due. It is then moved to the front of its line
    P:{queue}:held:LEASE      hash    id → receipt:deliveries and a tail of blanks, for messages held by this lease. A
                                      receipt below 0: taken over, must not be run again. The token is
                                      LEASE:receipt:deliveries
    P:{queue}:counts          hash    id → how often it was delivered and not settled, if that is not 0
    P:{queue}:dead            zset    id → since when it has been a dead letter
    P:{queue}:reasons         hash    id → why it is a dead letter
    P:{queue}:ended:SPELL     set     ids that ended without an outcome in these 20 s; expires 40 s after the last. Read
                                      when a message is published again because the first reply was lost
    P:{queue}:waiters:p, :c   set     leases that wait for a message of this lane, and marks (+LIST) of queue lists
                                      whose leases may wait. One is taken out and woken when there is a message

Of queue lists: a worker with many queues registers their list once, under a hash of their names, so that a request and
waiting do not touch each queue. All workers with the same queues share a list.

    P:list:LIST               zset    queue → its position in the list; expires after 5 s, and is registered again
    P:waiters:LIST:p, :c      set     leases with this list that wait for a message of this lane; expires after 60 s
    P:unmarked:LIST:p, :c     set     prefixes of the keys of queues whose `waiters` have lost the mark +LIST because no
                                      lease was waiting; the marks go back when one waits. Expires after 60 s
    P:rung:LEASE              set     prefix of a queue's keys, and lane: what this lease, which used a list, was woken
                                      for and has not asked for since; expires after 60 s
    P:ready:p, :c             set     every queue that has a ready message of this lane; others may be in it, too
    P:soonest                 zset    every queue with a scheduled message → when the soonest becomes due, or earlier

Of all queues:

    P:queues                  set     names of queues that have ever had a message
    P:paused                  set     names of paused queues
    P:revoked                 zset    id → until when it is revoked; expires with the last
    P:leases                  zset    lease → when it expires
    P:workers                 hash    lease → [seconds, WorkerInfo] in JSON
    P:fences                  hash    lease → its requests with a base receipt below this are refused

Of results:

    P:outcome:ID              string  1 (final) or 0, and the outcome in MessagePack; expires after `result_expires`
    P:recent                  list    ids of the outcomes stored last, newest first, at most 10,000; expires likewise

Of workflows:

    P:workflow:ID             hash    `tree` (MessagePack; never changes), `left` (tasks that have not ended), and for
                                      each join, by its number, how many members have not ended. Expires as outcomes
                                      do when no task is left, else 30 days after the last end of a task
    P:unfinished              zset    every workflow with tasks that have not ended, with the score 0: sorted by id, and
                                      ids sort by time. Those that have expired are taken out when they are listed, and
                                      a few at random whenever workers look for pending nodes and find none
    P:dues                    zset    ID:NODE of each pending node → until when a worker has claimed it

Of schedules:

    P:schedules               hash    name → revision:entry in MessagePack
    P:schedules:next          zset    name of each entry that waits → when it is due, in milliseconds
    P:schedules:names         zset    every name, with the score 0: sorted, for pages

Of messages that wait, for a broker whose server holds none that are delayed:

    P:delays                  zset    id → when it is due
    P:delays:about            hash    id → token of who took it last (0: nobody), 1 if it may have been moved (else 0),
                                      queue; with blanks between them
    P:delays:data             hash    id → what the broker would have put into its queue
    P:delays:held             zset    id → until when somebody holds it
    P:delays:of:QUEUE         zset    id of each message of this queue → when it is due
    P:delays:queues           set     every queue with messages

Of claims:

    P:claim:KEY               string  16 random bytes, and the value of who has taken the key; expires

Of the history (`history.py`); a field is a `Key` in JSON, a member is an attempt's "id number end":

    P:history:unfolded        hash    field → sums of single workers
    P:history:sums:STEP:SLOT  hash    field → sums of all workers; a key for each slot of each step
    P:history:slots:STEP      zset    slots of that step, by their time
    P:history:workers         hash    lease → complete:folded:seen: up to which slot its sums are final, and folded
    P:history:attempts        hash    member → an attempt
    P:history:ids             zset    every member, with the score 0: sorted by id
    P:history:kind:KIND, :task:TASK, :signature:SIGNATURE
                              zset    members → when they ended; KIND is failure or sample
    P:history:signatures      hash    signature → what is known of these failures
    P:history:last            zset    signatures → when they last occurred
    P:history:marks           hash    signature → status:time:by, set by operators
    P:history:events          hash    name → an event
    P:history:times           zset    names of events → when they happened

Channels (`PUBLISH`):

    P:bell:LEASE              empty: there may be something to receive
    P:done:0 … P:done:63      tasks that have ended: for each the length of its id, NUL, the id, the length of its
                              value, NUL, the value as in P:outcome; above 4 KiB no length and no value. The number is
                              crc32(id) mod 64
    P:broadcast:NAME          control commands, their replies, events

Each script of `scripts` begins with its arguments and its reply. KEYS[1] is always `P:queues`, and ARGV[1] the prefix.
`publish`, `publish_one`, `remove_dead` and `peek` change the keys of one queue, and keys of all queues;
`move` changes those of two queues;
`receive` and `sweep` touch many queues; `settle` touches the queues of a batch, of its follow-ups and of a request for
messages that it carries, and P:outcome and P:workflow, as do `advance` and `purge`; `publish_again` reads P:outcome,
too. On Redis Cluster all keys must therefore be in one slot: give the prefix a hash tag (`redis_prefix =
"{celeriac}"`), and name the node that has the slot. The hash tags of the queues allow a client for Cluster to spread
them later, without a change of the keys.
"""
