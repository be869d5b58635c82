-- The books of a simulated core: a file of its own, far from our ledger, as a matching engine's would be.
-- Amounts are minor units. A req_id names one operation for ever: its row is written once, and only its state moves on.

BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS core (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    name TEXT NOT NULL,
    freezes INTEGER NOT NULL CHECK (freezes IN (0, 1))
) STRICT;

-- held: withdrawn and neither committed nor rolled back. With a freeze it is the user's frozen money. Without one the
-- money has left, and held only keeps room for it: a reversal must never find the balance full.
CREATE TABLE IF NOT EXISTS balances (
    user_id INTEGER NOT NULL,
    asset_id INTEGER NOT NULL,
    available INTEGER NOT NULL CHECK (available >= 0),
    held INTEGER NOT NULL CHECK (held >= 0),
    PRIMARY KEY (user_id, asset_id),
    CHECK (available <= 9223372036854775807 - held)
) STRICT, WITHOUT ROWID;

-- A fence has neither op nor body; an operation that was refused for its body has no body.
CREATE TABLE IF NOT EXISTS operations (
    req_id BLOB NOT NULL PRIMARY KEY CHECK (length(req_id) = 16),
    op TEXT CHECK (op IN ('withdraw', 'deposit')),
    user_id INTEGER,
    asset_id INTEGER,
    amount INTEGER CHECK (amount > 0),
    state TEXT NOT NULL
        CHECK (state IN ('withdrawn', 'committed', 'rolled_back', 'reversed', 'deposited', 'refused', 'fenced')),
    reason TEXT NOT NULL,
    CHECK ((op IS NULL) = (state = 'fenced')),
    CHECK (state IN ('refused', 'fenced') OR (user_id IS NOT NULL AND asset_id IS NOT NULL AND amount IS NOT NULL))
) STRICT, WITHOUT ROWID;

-- What came in from outside, one row a time, so that an audit can compare the balances with where they came from.
CREATE TABLE IF NOT EXISTS fundings (
    funding INTEGER NOT NULL PRIMARY KEY,
    user_id INTEGER NOT NULL,
    asset_id INTEGER NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0)
) STRICT;

PRAGMA application_id = 1413829443;
PRAGMA user_version = 1;

COMMIT;
