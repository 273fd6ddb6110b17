-- The queue. Times are seconds since the epoch. Forward only; safe to read for the version before.

CREATE TABLE meta (
    name TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

-- generation: counts daemon starts, the upper half of every lease epoch, so that no epoch is used twice.
-- file_bytes: size of all body files, kept by the triggers below, whichever process deletes a row.
INSERT INTO meta (name, value) VALUES ('generation', 0), ('file_bytes', 0);

-- body: '' (gone), 'row' (table body) or 'file' (checked against size and crc).
-- failed: resolved, and the body is kept so that it can be retried by hand.
CREATE TABLE message (
    queue_id TEXT NOT NULL PRIMARY KEY,
    reverse_path TEXT NOT NULL,
    smtputf8 INTEGER NOT NULL,
    size INTEGER NOT NULL,
    kind TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    client TEXT NOT NULL,
    helo TEXT NOT NULL,
    user TEXT NOT NULL,
    protocol TEXT NOT NULL,
    message_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL CHECK (body IN ('', 'row', 'file')),
    crc INTEGER,
    keep_body INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    resolved_at REAL
) WITHOUT ROWID;

-- Unresolved messages by age (resolved_at IS NULL), and finished ones in the order in which they are pruned.
CREATE INDEX message_age ON message (failed, resolved_at, created_at);
CREATE INDEX message_file ON message (queue_id) WHERE body = 'file';

CREATE TABLE body (
    queue_id TEXT NOT NULL PRIMARY KEY,
    raw BLOB NOT NULL
);

-- next_attempt_at of a leased row is the end of its lease: an expired lease is due by itself, and rows that are leased
-- never stand at the head of the index; due_at keeps when the attempt now begun was due. begun: 1 an attempt was begun and not recorded, 2 the one before it as well.
CREATE TABLE recipient (
    queue_id TEXT NOT NULL,
    address TEXT NOT NULL,
    position INTEGER NOT NULL,
    status TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_attempt_at REAL,
    leased_until REAL,
    lease_owner TEXT,
    epoch INTEGER,
    begun INTEGER NOT NULL,
    unknown_group INTEGER,
    unknowns INTEGER NOT NULL,
    provider TEXT NOT NULL,
    provider_message_id TEXT NOT NULL,
    code INTEGER,
    enhanced TEXT NOT NULL,
    text TEXT NOT NULL,
    fault TEXT NOT NULL,
    expires_at REAL NOT NULL,
    due_at REAL,
    blocked_at REAL,
    PRIMARY KEY (queue_id, address)
) WITHOUT ROWID;

CREATE INDEX recipient_due ON recipient (next_attempt_at) WHERE status IN ('queued', 'deferred');
CREATE INDEX recipient_lease ON recipient (lease_owner, epoch) WHERE lease_owner IS NOT NULL;
-- For lists and counts; what was sent is most of the table and is found through message.
CREATE INDEX recipient_open ON recipient (status)
    WHERE status IN ('queued', 'deferred', 'held', 'bounced', 'expired', 'dropped');

CREATE TABLE event (
    queue_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    at REAL NOT NULL,
    event TEXT NOT NULL,
    address TEXT NOT NULL,
    provider TEXT NOT NULL,
    code INTEGER,
    enhanced TEXT NOT NULL,
    text TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (queue_id, seq)
) WITHOUT ROWID;

CREATE TRIGGER message_file_added AFTER INSERT ON message WHEN new.body = 'file' BEGIN
    UPDATE meta SET value = value + new.size WHERE name = 'file_bytes';
END;
CREATE TRIGGER message_file_dropped AFTER UPDATE OF body ON message WHEN old.body = 'file' AND new.body <> 'file' BEGIN
    UPDATE meta SET value = value - old.size WHERE name = 'file_bytes';
END;
CREATE TRIGGER message_file_deleted AFTER DELETE ON message WHEN old.body = 'file' BEGIN
    UPDATE meta SET value = value - old.size WHERE name = 'file_bytes';
END;
