-- Version 7 of the database. Mutable state (job) stands apart from what never changes (spec): an UPDATE
-- rewrites its whole row. Instants are milliseconds UTC. CHECKs repeat the rules of broker/lifecycle.py
-- as the last guard; codes of state and ready are those of broker/store/rows.py.

CREATE TABLE meta (                     -- one row a fact: broker, epoch, next_seq, clean, output_bytes …
  key   TEXT PRIMARY KEY,
  value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE setting (                  -- only what differs from the default
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL                   -- JSON
) STRICT, WITHOUT ROWID;

CREATE TABLE bucket (                   -- what jobs wait in: a queue
  bucket INTEGER PRIMARY KEY,
  queue  TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE actor (                    -- who did something: the name of a key, or a user of this machine (uid:1000)
  actor INTEGER PRIMARY KEY,
  name  TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE access_key (               -- who may come in from elsewhere; a name has one key, or two while one is exchanged
  key           INTEGER PRIMARY KEY,
  name          TEXT NOT NULL,          -- never given to somebody else
  role          TEXT NOT NULL CHECK (role IN ('worker', 'submit', 'read', 'admin')),
  queues        TEXT NOT NULL,          -- JSON: the globs of its queues; none: all
  public_key    TEXT NOT NULL UNIQUE,   -- Z85
  added_at_ms   INTEGER NOT NULL,
  added_by      INTEGER NOT NULL,       -- an actor
  revoked_at_ms INTEGER,
  revoked_by    INTEGER,
  CHECK ((revoked_at_ms IS NULL) = (revoked_by IS NULL))
) STRICT;

CREATE TABLE worker (                   -- one row for each start of a worker that ever said hello
  worker        INTEGER PRIMARY KEY,
  boot          TEXT NOT NULL UNIQUE,
  name          TEXT NOT NULL,
  host          TEXT NOT NULL,
  home          TEXT NOT NULL,
  pid           INTEGER NOT NULL,
  slots         INTEGER NOT NULL,
  software      TEXT NOT NULL,
  first_seen_ms INTEGER NOT NULL,
  actor         INTEGER                 -- who it is; NULL: from before version 4
) STRICT;

CREATE TABLE stop (                     -- workers that were told to stop and are not known to have ended
  worker  INTEGER PRIMARY KEY,
  at_once INTEGER NOT NULL CHECK (at_once IN (0, 1)),      -- 1: without finishing what runs
  at_ms   INTEGER NOT NULL
) STRICT;

CREATE TABLE job (                      -- the mutable part of a job
  seq            INTEGER PRIMARY KEY,   -- order of arrival; never used twice (meta.next_seq, noted when jobs are deleted)
  id             TEXT NOT NULL UNIQUE,
  bucket         INTEGER NOT NULL,
  priority       INTEGER NOT NULL,
  state          INTEGER NOT NULL CHECK (state BETWEEN 0 AND 5),
  ready          INTEGER NOT NULL CHECK (ready BETWEEN 0 AND 4),
  run_at_ms      INTEGER NOT NULL,
  attempt        INTEGER NOT NULL CHECK (attempt >= 0),    -- runs started
  attempts       INTEGER NOT NULL CHECK (attempts >= 0),   -- failures in this budget
  losses         INTEGER NOT NULL CHECK (losses >= 0),     -- workers lost in this budget
  lease          INTEGER,               -- of the run now, or of the one lost last: it may still be adopted
  worker         INTEGER,               -- who holds it, or held it last
  slot           INTEGER NOT NULL CHECK (slot IN (0, 1)),  -- 1: leased into a free slot
  reason         TEXT,
  exit_code      INTEGER,
  signal         INTEGER,
  created_at_ms  INTEGER NOT NULL,
  updated_at_ms  INTEGER NOT NULL,
  finished_at_ms INTEGER,
  until_ms       INTEGER,               -- to be looked at then, if it still waits: it expires, or its deadline has come
  unique_key     TEXT,                  -- no other job that waits or runs has it
  CHECK (ready = 0 OR state IN (0, 3)),                       -- only what waits can be ready
  CHECK (state <> 1 OR lease IS NOT NULL),                    -- what runs has a lease
  CHECK (lease IS NULL OR state IN (0, 1)),
  CHECK ((state = 2 OR state = 4 OR state = 5) = (finished_at_ms IS NOT NULL)) -- what is over has its end; a list of
                                                              -- three would become a table for each row written
) STRICT;

CREATE INDEX job_ready ON job (bucket, priority DESC, run_at_ms, seq) WHERE ready = 1;
CREATE INDEX job_alone ON job (bucket, priority DESC, run_at_ms, seq) WHERE ready = 3;
CREATE INDEX job_due   ON job (run_at_ms) WHERE ready = 2;
CREATE INDEX job_state ON job (state, seq) WHERE state <> 0;
CREATE INDEX job_death ON job (finished_at_ms) WHERE state = 4;
CREATE INDEX job_until ON job (until_ms) WHERE until_ms IS NOT NULL AND ready <> 0;
CREATE UNIQUE INDEX job_unique ON job (unique_key) WHERE unique_key IS NOT NULL AND finished_at_ms IS NULL;

CREATE TABLE spec (                     -- the part of a job that changes only where a person edits it
  seq            INTEGER PRIMARY KEY,
  command        TEXT NOT NULL,
  max_retries    INTEGER NOT NULL,
  backoff_base   REAL NOT NULL,
  backoff_max    REAL NOT NULL,
  backoff_jitter TEXT NOT NULL,
  timeout_ms     INTEGER,
  output_limit   INTEGER NOT NULL,
  keep_children  INTEGER NOT NULL,
  env            BLOB,                  -- msgpack map
  cwd            TEXT,
  on_lost        TEXT NOT NULL DEFAULT 'retry' CHECK (on_lost IN ('retry', 'dead')),
  enqueued_by    INTEGER,               -- an actor; NULL: from before version 4
  rules          BLOB,                  -- msgpack map: which failures are retried, and when; NULL: all, exponentially
  tags           BLOB,                  -- msgpack map, as table tag has it
  expires_ms     INTEGER,               -- not to be started for the first time after that
  deadline_ms    INTEGER,               -- over all attempts
  retry_of       TEXT,                  -- the id of the job that this one runs again
  stdin          BLOB,
  event          INTEGER                -- the row of the feed that tells that it came; NULL: from before version 6
) STRICT;

CREATE TABLE tag (                      -- what jobs are chosen by; each tag once more with the value '', for any value
  key   TEXT NOT NULL,
  value TEXT NOT NULL,
  seq   INTEGER NOT NULL,
  PRIMARY KEY (key, value, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE cancellation (             -- running jobs that are to end
  seq      INTEGER PRIMARY KEY,
  signal   INTEGER NOT NULL,
  grace_ms INTEGER NOT NULL,            -- from the signal to SIGKILL
  reason   TEXT NOT NULL                -- what a person said
) STRICT;

CREATE TABLE attempt (                  -- one row for each attempt, written when it ends
  seq            INTEGER NOT NULL,
  attempt        INTEGER NOT NULL,
  lease          INTEGER NOT NULL,
  worker         INTEGER,
  started_at_ms  INTEGER NOT NULL,
  finished_at_ms INTEGER NOT NULL,
  duration_ms    INTEGER NOT NULL,
  outcome        TEXT NOT NULL,
  exit_code      INTEGER,
  signal         INTEGER,
  stdout_bytes   INTEGER,               -- all that was written, kept or not; NULL: not known
  stderr_bytes   INTEGER,
  last_line      TEXT NOT NULL,
  note           TEXT NOT NULL,
  PRIMARY KEY (seq, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE deed (                     -- what people did to a job
  seq     INTEGER NOT NULL,
  number  INTEGER NOT NULL,             -- in the order in which it was done
  at_ms   INTEGER NOT NULL,
  action  TEXT NOT NULL,
  actor   INTEGER NOT NULL,
  note    TEXT NOT NULL DEFAULT '',     -- why, or what has changed
  state   INTEGER,                      -- of the job when it was done; NULL: from before version 7
  attempt INTEGER,                      -- runs started by then; NULL: the same
  PRIMARY KEY (seq, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE output (                   -- kept pieces; offsets count all bytes written, a jump is a gap
  chunk   INTEGER PRIMARY KEY AUTOINCREMENT,   -- order of arrival; followers use it as a cursor
  seq     INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  stream  INTEGER NOT NULL CHECK (stream IN (1, 2)),
  offset  INTEGER NOT NULL,
  data    BLOB NOT NULL,
  at_ms   INTEGER NOT NULL DEFAULT 0                                        -- when its first byte came; 0: from before version 5
) STRICT;

CREATE UNIQUE INDEX output_at ON output (seq, attempt, stream, offset);

CREATE TABLE doomed (                   -- deleted jobs whose attempts and output still go, some in each turn
  seq INTEGER PRIMARY KEY
) STRICT;

CREATE TABLE reply (                    -- replies to changing requests, kept so that a repeat has no effect
  reply  INTEGER PRIMARY KEY,
  id     TEXT NOT NULL UNIQUE,
  op     TEXT NOT NULL,
  at_ms  INTEGER NOT NULL,
  body   BLOB NOT NULL                  -- msgpack
) STRICT;

CREATE TABLE tally (                    -- number of jobs, kept in the same transaction; never COUNT(*)
  bucket INTEGER NOT NULL,
  state  INTEGER NOT NULL,
  jobs   INTEGER NOT NULL CHECK (jobs >= 0),
  PRIMARY KEY (bucket, state)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (                    -- what has happened: the events of a turn are one row
  event INTEGER PRIMARY KEY,            -- in order; the newest is never deleted, so no number is used twice
  at_ms INTEGER NOT NULL,
  body  BLOB NOT NULL                   -- msgpack: a list of events, as broker/core/feed.py has them
) STRICT;
