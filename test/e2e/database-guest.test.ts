// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  channelSocketPath,
  createDatabaseDisks,
  databaseDomainXml,
  databaseGuestImage,
  REPORT_PORT,
  verifyDatabase,
} from '../../lab/database-guest.ts';
import { DatabaseReports } from '../../lab/database-reports.ts';
import { guestImage, probeAcceleration } from '../../lab/guest.ts';
import { GUEST_REQUIREMENTS, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';

/*
 * The witness of other tests is looked at first: it must not call anything intact that is not.
 */
const test = suite('the guest with a database', { requires: [...GUEST_REQUIREMENTS, 'sqlite3'], timeoutMs: 120_000 });

const COMMITS = 12;

/** Writes other bytes over each place of a file where some stand; returns how many places there were. */
async function overwrite(path: string, text: string, other: string): Promise<number> {
  const content = await readFile(path);
  let count = 0;
  for (let at = content.indexOf(text); at >= 0; at = content.indexOf(text, at)) {
    content.write(other, at, 'latin1');
    count += 1;
  }
  await writeFile(path, content);
  return count;
}

for (const journal of ['wal', 'delete'] as const) {
  test(`what it reported is there after its death, and a lie is found (journal ${journal})`, async (t) => {
    const { libvirt, connection } = await startLibvirt(t);
    const base = await guestImage();
    const guest = { image: await databaseGuestImage(base), acceleration: await probeAcceleration(base), journal };
    const disks = await createDatabaseDisks(libvirt.directory, { format: 'raw' });
    const [vda = '', vdb = ''] = disks.map(({ path }) => path);
    const oldStep = join(libvirt.directory, 'old-vdb.raw');
    await copyFile(vdb, oldStep);
    const domain = await connection.define(databaseDomainXml({ name: 'database', ...guest, disks }));
    await domain.start();
    const socketPath = channelSocketPath(await domain.xml(), REPORT_PORT);
    const reports = t.use(await DatabaseReports.connect(socketPath ?? ''));
    assert.deepEqual(await reports.state(), { intactAt: 0 });
    await reports.until(COMMITS);
    process.kill((await libvirt.qemuPid('database')) ?? assert.fail('it does not run'), 'SIGKILL');
    await reports.ended();
    assert.equal(reports.failure, undefined);
    assert.deepEqual(
      reports.commits.map(({ number }) => number),
      Array.from({ length: reports.newest }, (_, index) => index + 1),
    );

    const found = await verifyDatabase(guest, { vda, vdb });
    assert.ok('intactAt' in found, JSON.stringify(found));
    assert.ok([reports.newest, reports.newest + 1].includes(found.intactAt), `${found.intactAt} of ${reports.newest}`);
    const split = await verifyDatabase(guest, { vda, vdb: oldStep });
    assert.deepEqual(split, {
      broken: `ok step 0, 0 done, on the other disk at ${found.intactAt} at ${found.intactAt}`,
    });
    const payload = createHash('sha3-256').update('2').digest('hex').toUpperCase();
    assert.ok((await overwrite(vda, payload, payload.toLowerCase())) > 0);
    const tampered = await verifyDatabase(guest, { vda, vdb });
    // A log of writes has checksums of its own: SQLite ends it there, and what follows is missing on this disk only.
    assert.ok('broken' in tampered, JSON.stringify(tampered));
  });
}
