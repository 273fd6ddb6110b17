-- What providers told of the mail they took, as it came. queue_id '': of no message that is known.

CREATE TABLE provider_event (
    id INTEGER PRIMARY KEY,
    provider TEXT NOT NULL,
    event_id TEXT NOT NULL,
    received_at REAL NOT NULL,
    at REAL,
    event TEXT NOT NULL,
    final INTEGER NOT NULL,
    permanent INTEGER NOT NULL,
    queue_id TEXT NOT NULL,
    told_queue_id TEXT NOT NULL,
    address TEXT NOT NULL,
    provider_message_id TEXT NOT NULL,
    code INTEGER,
    enhanced TEXT NOT NULL,
    text TEXT NOT NULL,
    raw TEXT NOT NULL
);
CREATE UNIQUE INDEX provider_event_once ON provider_event (provider, event_id);
CREATE INDEX provider_event_age ON provider_event (received_at);
CREATE INDEX provider_event_message ON provider_event (queue_id) WHERE queue_id <> '';
CREATE INDEX provider_event_unjoined ON provider_event (received_at) WHERE queue_id = '';
