-- The embedded record store. One file, one writer. Times are Unix ms, amounts minor units, identifiers 16 bytes,
-- big-endian. `application_id` spells "XFER"; `user_version` is the version of this text.

PRAGMA application_id = 0x58464552;
PRAGMA user_version = 5;

-- A row is replaced only by one with a higher version (see TransferRecord.version). Rows lie in the order in which
-- they came (`number`), whatever their identifiers are.
CREATE TABLE transfers (
    number         INTEGER NOT NULL PRIMARY KEY,
    req_id         BLOB    NOT NULL,
    source         TEXT    NOT NULL,
    target         TEXT    NOT NULL,
    user_id        INTEGER NOT NULL,
    target_user_id INTEGER NOT NULL,
    asset_id       INTEGER NOT NULL,
    amount         INTEGER NOT NULL,
    state          TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    error          TEXT    NOT NULL,
    retry_count    INTEGER NOT NULL,
    fingerprint    INTEGER NOT NULL, -- 64 bits, the highest one as the sign
    version        INTEGER NOT NULL
);

-- Where a transfer's row is, by its identifier modulo 139554259537711; others may have the same. Keys are random, and
-- would each dirty a page of this tree; so the newest ones wait in the engine's memory, and come here many at a time.
-- They are found in `transfers` from the mark on.
CREATE TABLE transfer_ids (
    key INTEGER NOT NULL,
    row INTEGER NOT NULL, -- its number
    PRIMARY KEY (key, row)
) WITHOUT ROWID;

-- One row: every transfer with a lower number is in `transfer_ids`, and in `history`; later ones may be.
CREATE TABLE row_marks (
    ids     INTEGER NOT NULL,
    history INTEGER NOT NULL
);
INSERT INTO row_marks VALUES (0, 0);

-- Which transfers a user has, by time. A row that does not agree with `transfers` (another created_at, other users)
-- belongs to a version that lost, or to another user with the same key, and is passed over. Users come in random order,
-- and each of their rows would dirty a page of its own; so the newest ones wait in the engine's memory, too.
CREATE TABLE history (
    key        INTEGER NOT NULL, -- of the user: user_id * 86249275684813 modulo 139554259537711
    created_at INTEGER NOT NULL,
    number     INTEGER NOT NULL,
    PRIMARY KEY (key, created_at, number)
) WITHOUT ROWID;

-- The journal of intents: one row holds many (see encode_intents).
CREATE TABLE intents (
    shard  INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    body   BLOB    NOT NULL,
    PRIMARY KEY (shard, bucket, seq)
) WITHOUT ROWID;

-- Below its mark a shard's journal is settled.
CREATE TABLE marks (
    shard  INTEGER NOT NULL PRIMARY KEY,
    bucket INTEGER NOT NULL
);

-- Lives of engines: identifiers are issued up to `ceiling_ms`, and the next life begins above it. `beat` counts the
-- heartbeats of the life; an empty `owner` has released the node.
CREATE TABLE claims (
    node       INTEGER NOT NULL PRIMARY KEY,
    epoch      INTEGER NOT NULL,
    owner      TEXT    NOT NULL,
    ceiling_ms INTEGER NOT NULL,
    beat       INTEGER NOT NULL
);

-- Where users are told of their finished transfers (see Endpoint). A row is replaced only by one with a higher version;
-- one that was given up stays, without its URL and its secret.
CREATE TABLE webhook_endpoints (
    user_id INTEGER NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    body    BLOB    NOT NULL
);
