-- What a search may pass over. Nothing is read here of what is there already: the summaries are made beside the mail.

-- One row for some hundred messages in a row: those after after_id, up to last_id. words: a Bloom filter of what they can be
-- found by (bridge/spool/summaries.py). Whoever puts a message in between deletes the row, which is made again.
CREATE TABLE summary (
    last_id TEXT NOT NULL PRIMARY KEY,
    after_id TEXT NOT NULL,
    words BLOB NOT NULL
);
