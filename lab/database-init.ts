// SPDX-License-Identifier: Apache-2.0

/*
 * What runs in the guest with a database: shell and SQL. The files on its two disks obey rules that any reader can check, and
 * what it reports was durable, as far as its operating system knows, before it was reported.
 */

/** Entries that are kept; older ones are deleted in the transaction that adds a new one, so that pages are used again. */
const KEPT_ENTRIES = 500;
const ACCOUNTS = 61;
const FIRST_BALANCE = 1000;

/** What the entry of a number holds: SHA-3 of the number, 1 to 32 times. */
const payloadOf = (n: string): string => `replace(hex(zeroblob(1 + ${n} % 32)), '00', hex(sha3(${n})))`;
const amountOf = (n: string): string => `${n} % 97 + 1`;
const sourceOf = (n: string): string => `${n} % ${ACCOUNTS}`;
const targetOf = (n: string): string => `(${n} * 7 + 3) % ${ACCOUNTS}`;

/** May be repeated: makes what is not there yet. */
const SCHEMA = `BEGIN;
CREATE TABLE IF NOT EXISTS total(id INTEGER PRIMARY KEY, count INTEGER NOT NULL, sum INTEGER NOT NULL, amount INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS entry(n INTEGER PRIMARY KEY, payload TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS transfer(n INTEGER PRIMARY KEY, source INTEGER NOT NULL, target INTEGER NOT NULL, amount INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS transfer_by_source ON transfer(source);
INSERT OR IGNORE INTO total VALUES (1, 0, 0, 0);
INSERT OR IGNORE INTO account WITH RECURSIVE ids(id) AS (VALUES (0) UNION ALL SELECT id + 1 FROM ids WHERE id < ${ACCOUNTS - 1})
  SELECT id, ${FIRST_BALANCE} FROM ids;
COMMIT;
CREATE TABLE IF NOT EXISTS steps.step(n INTEGER PRIMARY KEY, isDone INTEGER NOT NULL);
`;

/**
 * One transaction of the database, between two of the file on the other disk: the step that says "begun" is durable before,
 * and the one that says "done" is written after.
 */
const TRANSACTION = `INSERT OR IGNORE INTO step SELECT count + 1, 0 FROM total;
BEGIN IMMEDIATE;
UPDATE total SET count = count + 1, sum = sum + count + 1, amount = amount + ${amountOf('(count + 1)')};
INSERT INTO entry SELECT count, ${payloadOf('count')} FROM total;
INSERT INTO transfer SELECT count, ${sourceOf('count')}, ${targetOf('count')}, ${amountOf('count')} FROM total;
UPDATE account SET balance = balance - (SELECT ${amountOf('count')} FROM total) WHERE id = (SELECT ${sourceOf('count')} FROM total);
UPDATE account SET balance = balance + (SELECT ${amountOf('count')} FROM total) WHERE id = (SELECT ${targetOf('count')} FROM total);
DELETE FROM entry WHERE n <= (SELECT count FROM total) - ${KEPT_ENTRIES};
COMMIT;
UPDATE step SET isDone = 1 WHERE n = (SELECT count FROM total);
SELECT 'COMMIT ' || count FROM total;
`;

/** Prints \`ok\`, then a line for each broken rule, then \`at N\`. */
const VERIFICATION = `PRAGMA integrity_check;
SELECT 'payload of entry ' || n FROM entry WHERE payload <> ${payloadOf('n')} LIMIT 3;
SELECT count(*) || ' entries at ' || total.count FROM total LEFT JOIN entry ON entry.n <= total.count
  HAVING count(entry.n) <> min(total.count, ${KEPT_ENTRIES}) OR (SELECT count(*) FROM entry) <> min(total.count, ${KEPT_ENTRIES});
SELECT (SELECT count(*) FROM transfer) || ' transfers at ' || count FROM total
  WHERE count <> (SELECT count(*) FROM transfer) OR count <> (SELECT coalesce(max(n), 0) FROM transfer);
SELECT 'transfer ' || n FROM transfer
  WHERE source <> ${sourceOf('n')} OR target <> ${targetOf('n')} OR amount <> ${amountOf('n')} LIMIT 3;
SELECT 'account ' || id FROM account WHERE balance <> ${FIRST_BALANCE}
  - (SELECT coalesce(sum(amount), 0) FROM transfer INDEXED BY transfer_by_source WHERE source = account.id)
  + (SELECT coalesce(sum(amount), 0) FROM transfer WHERE target = account.id) LIMIT 3;
SELECT 'total at ' || count FROM total
  WHERE sum <> count * (count + 1) / 2 OR amount <> (SELECT coalesce(sum(amount), 0) FROM transfer);
SELECT 'step ' || begun || ', ' || done || ' done, on the other disk at ' || count
  FROM total, (SELECT coalesce(max(n), 0) AS begun, coalesce(max(n) FILTER (WHERE isDone), 0) AS done FROM step)
  WHERE begun NOT IN (count, count + 1) OR done NOT IN (count, count - 1);
SELECT 'at ' || count FROM total;
`;

/** In front of the guest's own init: what is below runs beside it. */
const INIT = `#!/bin/sh
export PATH=/bin
mount -t devtmpfs dev /dev
sh /database/run &
exec /init
`;

/**
 * SQLite's FULL does not sync the directory after a rollback journal is unlinked, so a commit is durable with EXTRA only; with a
 * log of writes (WAL) the two are the same.
 */
const RUN = `#!/bin/sh
say() { echo "$*" >&4; }
broken() { say "BROKEN $*"; [ "$mode" = verify ] && poweroff -f; exit 1; }
until_true() { i=0; while ! "$@" 2>/dev/null; do [ $i -lt 125 ] || return 1; i=$((i + 1)); usleep 40000; done; }
argument() { case "$cmdline" in *" understudy.$1="*) v=\${cmdline#*" understudy.$1="}; echo "\${v%% *}";; *) echo "$2";; esac; }
named_port() { for p in /sys/class/virtio-ports/*; do [ "$(cat $p/name 2>/dev/null)" = "$1" ] && port=/dev/\${p##*/} && return 0; done; return 1; }
sql() { LD_LIBRARY_PATH=/database /database/sqlite3 -batch -bail -cmd '.open /data/database' "$@"; }

until_true test -r /proc/cmdline
cmdline=" $(cat /proc/cmdline) "
mode=$(argument database commit)
journal=$(argument journal wal)
pause=$(argument pause-us 0)
if until_true test -c /dev/ttyS0 && [ "$(argument report serial)" = serial ]; then exec 4>/dev/ttyS0
else until_true named_port "$(argument report serial)" && exec 4<>$port; fi
until_true grep -q " /data " /proc/mounts || broken "the first disk cannot be mounted"
mkdir -p /steps
until_true test -b /dev/vdb
mount -t ext4 -o discard /dev/vdb /steps || broken "the second disk cannot be mounted"

synchronous=FULL
[ "$journal" = wal ] || synchronous=EXTRA
cat > /tmp/open.sql <<END
.output /dev/null
ATTACH '/steps/steps' AS steps;
PRAGMA main.journal_mode=$journal;
PRAGMA steps.journal_mode=$journal;
PRAGMA main.synchronous=$synchronous;
PRAGMA steps.synchronous=$synchronous;
.output
END
found=$(cat /tmp/open.sql /database/schema.sql /database/verification.sql | sql 2>&1) || broken $found
at=\${found##*at }
[ "$found" = "ok
at $at" ] || broken $found
say "INTACT $at"
if [ "$mode" = verify ]; then
  umount /steps /data
  poweroff -f
fi
transaction=$(cat /database/transaction.sql)
{
  cat /tmp/open.sql
  echo 'UPDATE step SET isDone = 1 WHERE isDone = 0 AND n <= (SELECT count FROM total);'
  while echo "$transaction"; do [ "$pause" = 0 ] || usleep $pause; done
} 2>/dev/null | sql >&4 2>/tmp/database.errors
say "FAILED $(cat /tmp/database.errors)"
`;

/** By path in the initramfs. */
export const DATABASE_FILES: Readonly<Record<string, { readonly isProgram: boolean; readonly text: string }>> = {
  'database/init': { isProgram: true, text: INIT },
  'database/run': { isProgram: true, text: RUN },
  'database/schema.sql': { isProgram: false, text: SCHEMA },
  'database/transaction.sql': { isProgram: false, text: TRANSACTION },
  'database/verification.sql': { isProgram: false, text: VERIFICATION },
};
