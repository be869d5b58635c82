-- The embedded ledger's file. One writer; readers see whole batches (WAL).
--
-- Objects are keyed by their ledger timestamp (ns, strictly increasing), so accounts and transfers are only ever
-- appended. One tree is in the order of ids, filled in bulk, and no other index is paid for on the way in:
--   * an account's rows are a chain: each transfer row names the account's previous one, the balance row names the
--     last, and `account_marks` holds every 32nd, so that a reader can enter the chain anywhere;
--   * `user_data_128` is indexed only where it is not the transfer's own id with the low four bits cleared.
--
-- A hold and its post, next to each other in one batch, are one row, a move: `legs` is not NULL. The hold's timestamp is
-- the row's, the post's is the next one; the post's account, amount and user data are the hold's, whose status is
-- "posted". Few columns of such a row are ever written: the defaults are a move's.
--
-- "wide" columns hold an unsigned number of up to 128 bits: an INTEGER below 2^63, else 16 big-endian bytes. "signed"
-- ones hold 64 bits, the highest one as the sign. Columns named after an account or a transfer hold its row's timestamp.

CREATE TABLE accounts (
    timestamp     INTEGER PRIMARY KEY,
    id            BLOB NOT NULL UNIQUE,  -- 16 big-endian bytes
    user_data_128 NOT NULL,              -- wide
    user_data_64  INTEGER NOT NULL,      -- signed
    user_data_32  INTEGER NOT NULL,
    ledger        INTEGER NOT NULL,
    code          INTEGER NOT NULL
);

-- Rows of balances lag behind: of an account's transfers after `transfer_last` only moves are not in its row. They are
-- added up when the file is opened, from the rows of `transfers` after `clock.balances_until`.
CREATE TABLE balances (
    account         INTEGER PRIMARY KEY,
    debits_pending  NOT NULL,            -- wide, as the next three
    debits_posted   NOT NULL,
    credits_pending NOT NULL,
    credits_posted  NOT NULL,
    flags           INTEGER NOT NULL,    -- here because closing an account sets one
    transfer_last   INTEGER NOT NULL,    -- its last row of `transfers` that is counted here; 0: none
    transfer_count  INTEGER NOT NULL     -- of such rows
);

CREATE TABLE transfers (
    timestamp       INTEGER PRIMARY KEY,
    id              BLOB NOT NULL,       -- 16 big-endian bytes; of a move, the 15 that its two ids share
    debit_account   INTEGER NOT NULL,
    credit_account  INTEGER NOT NULL,
    amount          NOT NULL,            -- wide
    pending         INTEGER,             -- the hold that this one posts or voids
    user_data_128,                       -- wide; NULL: the id with the low four bits cleared
    user_data_64    INTEGER NOT NULL,    -- signed
    user_data_32    INTEGER NOT NULL DEFAULT 0,
    timeout         INTEGER NOT NULL DEFAULT 0,  -- s
    code            INTEGER NOT NULL,
    flags           INTEGER NOT NULL DEFAULT 0,
    status          INTEGER NOT NULL DEFAULT 0,  -- 0 no hold, 1 pending, 2 posted, 3 voided, 4 expired
    debit_previous  INTEGER NOT NULL,    -- the debit account's row before this one; 0: none
    credit_previous INTEGER NOT NULL,
    legs            INTEGER              -- of a move: the last bytes of both ids, hold * 256 + post; NULL: one transfer
);

CREATE INDEX transfers_by_user_data_128 ON transfers (user_data_128)
    WHERE user_data_128 IS NOT NULL AND user_data_128 <> 0;

-- Where an id may be, by a short key: the id without its last byte, modulo 139554259537711. Others may have the same.
-- This tree lags behind: rows whose timestamps are after `clock.ids_merged_until` may not be in it yet and are kept in
-- memory, from the rows of `transfers` and `burnt_ids`.
CREATE TABLE transfer_ids (
    key INTEGER NOT NULL,
    row INTEGER NOT NULL,                -- a timestamp in `transfers`; negative: in `burnt_ids`
    PRIMARY KEY (key, row)
) WITHOUT ROWID;

CREATE TABLE burnt_ids (                 -- ids refused for good, as they were refused
    timestamp INTEGER PRIMARY KEY,
    id        BLOB NOT NULL
);

CREATE TABLE expiries (                  -- the holds that will expire
    expires_at INTEGER NOT NULL,         -- ns
    transfer   INTEGER NOT NULL,
    PRIMARY KEY (expires_at, transfer)
) WITHOUT ROWID;

CREATE TABLE account_marks (             -- every 32nd row of an account
    account  INTEGER NOT NULL,
    transfer INTEGER NOT NULL,
    PRIMARY KEY (account, transfer)
) WITHOUT ROWID;

CREATE TABLE account_balances (          -- after each transfer, for accounts with the history flag
    account         INTEGER NOT NULL,
    timestamp       INTEGER NOT NULL,
    debits_pending  NOT NULL,            -- wide, as the next three
    debits_posted   NOT NULL,
    credits_pending NOT NULL,
    credits_posted  NOT NULL,
    PRIMARY KEY (account, timestamp)
) WITHOUT ROWID;

CREATE TABLE clock (
    last_timestamp   INTEGER NOT NULL,   -- ns; written when the last event of a batch left no row of its own
    ids_merged_until INTEGER NOT NULL,   -- ns
    balances_until   INTEGER NOT NULL    -- ns; every row of `balances` counts all up to here
);
INSERT INTO clock VALUES (0, 0, 0);
