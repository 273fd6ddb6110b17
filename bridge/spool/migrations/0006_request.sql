-- Requests that came with an Idempotency-Key, by a hash of it and of who sent it.

-- body: a hash of what was asked. queue_id: of the message that is made of it.
-- status, answer: what was said, 0 and '' while that is not known.
CREATE TABLE request (
    key BLOB NOT NULL PRIMARY KEY,
    body BLOB NOT NULL,
    queue_id TEXT NOT NULL,
    status INTEGER NOT NULL,
    answer TEXT NOT NULL,
    at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX request_at ON request (at);
