-- Which providers may take a recipient, fairness between sources, notices to senders, and what the daemon remembers.

-- lane: the providers that may take this recipient, in order, as bridge/delivery/lanes.py writes them ('': not known yet).
-- source: whose turn it is when many wait: a user, or a client.
-- ready: 1 waits for its turn; 0 waits for next_attempt_at, or is leased, or is over.
-- notify, orcpt: what the client asked for (RFC 3461). notice: '' or 'done', or what the sender is still to be told.
ALTER TABLE recipient ADD COLUMN lane TEXT NOT NULL DEFAULT '';
ALTER TABLE recipient ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE recipient ADD COLUMN ready INTEGER NOT NULL DEFAULT 0;
ALTER TABLE recipient ADD COLUMN notify TEXT NOT NULL DEFAULT '';
ALTER TABLE recipient ADD COLUMN orcpt TEXT NOT NULL DEFAULT '';
ALTER TABLE recipient ADD COLUMN notice TEXT NOT NULL DEFAULT '';

ALTER TABLE message ADD COLUMN listener TEXT NOT NULL DEFAULT '';
ALTER TABLE message ADD COLUMN ret TEXT NOT NULL DEFAULT '';
ALTER TABLE message ADD COLUMN envid TEXT NOT NULL DEFAULT '';

DROP INDEX recipient_due;
CREATE INDEX recipient_due ON recipient (next_attempt_at) WHERE ready = 0 AND status IN ('queued', 'deferred');
CREATE INDEX recipient_ready ON recipient (lane, source, queue_id) WHERE ready = 1;
CREATE INDEX recipient_notice ON recipient (queue_id) WHERE notice IN ('failure', 'delay', 'success');

-- What the daemon remembers between two starts, by name: counters of a provider's day, where it stopped looking.
CREATE TABLE state (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL,
    at REAL NOT NULL
) WITHOUT ROWID;

-- Posts to a web address that are still to be made. target: bounce or alert.
CREATE TABLE post (
    id TEXT NOT NULL PRIMARY KEY,
    target TEXT NOT NULL,
    body TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_attempt_at REAL NOT NULL,
    created_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX post_due ON post (next_attempt_at);

-- Messages that got a 250, by what makes them the same.
CREATE TABLE seen (
    fingerprint BLOB NOT NULL PRIMARY KEY,
    reply TEXT NOT NULL,
    at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX seen_at ON seen (at);
