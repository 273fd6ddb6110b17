-- Messages that were brought in from another spool. An import that is repeated finds them here when the message itself is over,
-- and its row gone with the history.

CREATE TABLE imported (
    queue_id TEXT NOT NULL PRIMARY KEY,
    at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX imported_at ON imported (at);
