-- Addresses that must not be mailed again, as a provider's events told us.

CREATE TABLE suppression (
    address TEXT NOT NULL PRIMARY KEY,
    reason TEXT NOT NULL,
    provider TEXT NOT NULL,
    created_at REAL NOT NULL
) WITHOUT ROWID;
