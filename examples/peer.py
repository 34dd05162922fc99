"""A peer: reads Muster's events from a queue of its own and prints one line per event.

    python3 -m pip install pika==1.4.4
    python3 examples/peer.py amqp://alumni:PASSWORD@localhost:5672/%2f alumni 'drive.#' 'registration.#'

It needs nothing from Muster except the wire format: AMQP 0-9-1 and CloudEvents
(docs/reference/asyncapi.json). docs/how-to/subscribe-with-amqp.md says how to get a user on the
broker. The same program in Rust: peer.rs.
"""

import collections
import json
import sys
import time

import pika

# How many events the broker sends ahead of what was acknowledged.
PREFETCH = 100
# What the content type of several events in one message begins with.
BATCH = "application/cloudevents-batch+json"
# How many ids are remembered of events that have no sequence.
RECENT = 10_000


class Seen:
    """What has been dealt with.

    A peer that writes to a database keeps `last` there, and moves it on in the transaction in which it does what the
    event says: then a repeat changes nothing, not even after a crash.
    """

    def __init__(self):
        # The sequence of each drive's last event.
        self.last = {}
        # The last events of no drive: changed profiles, imports.
        self.recent = collections.deque(maxlen=RECENT)

    def is_new(self, event):
        """Whether an event is no repeat; says so if events are missing before it."""
        if "sequence" not in event:
            if event["id"] in self.recent:
                return False
            self.recent.append(event["id"])
            return True
        source, sequence = event["source"], int(event["sequence"])
        last = self.last.get(source)
        if last is not None and sequence <= last:
            return False
        # Fewer keys than all of a drive's leave gaps, and so does a queue that was full. The drive's log has what is
        # missing.
        if last is not None and sequence > last + 1:
            print(f"gap: {source} has {sequence} after {last}", file=sys.stderr, flush=True)
        self.last[source] = sequence
        return True


def read(url, name, keys, seen):
    """Reads until the connection is lost. Whatever was not acknowledged by then comes again."""
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    # Durable and replicated, so that nothing is missed while this program is away. With a single active consumer the
    # order stays, however many copies of it run.
    queue = f"peer.{name}.events"
    arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    channel.queue_declare(queue, durable=True, arguments=arguments)
    for key in keys:
        channel.queue_bind(queue, "muster.events", key)
    channel.basic_qos(prefetch_count=PREFETCH)
    print(f"reading {queue}", file=sys.stderr, flush=True)
    for method, properties, body in channel.consume(queue):
        is_batch = (properties.content_type or "").startswith(BATCH)
        events = json.loads(body) if is_batch else [json.loads(body)]
        for event in events:
            if seen.is_new(event):
                print(event["source"], event.get("sequence", "-"), event["type"], event["id"], flush=True)
        # Only now: what was not dealt with comes again.
        channel.basic_ack(method.delivery_tag)


def main():
    if len(sys.argv) < 3:
        sys.exit("usage: peer.py URL NAME [KEY…]")
    url, name, *keys = sys.argv[1:]
    seen = Seen()
    while True:
        try:
            read(url, name, keys or ["#"], seen)
        except pika.exceptions.AMQPError as error:
            print(f"{error!r}; connecting again", file=sys.stderr, flush=True)
        time.sleep(1)


if __name__ == "__main__":
    main()
