// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { Journal } from '../../appliance/volume/journal.ts';
import { layeredDevice } from '../../appliance/volume/logged-device.ts';
import { randomSource } from '../support/crashing-file-system.ts';
import { SLOT_BYTES, SLOTS, VICTIM_SEGMENT_BYTES } from '../support/journal-victim.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { KEY, MACHINE } from '../support/write-log-model.ts';

const test = suite('journal, killed', { timeoutMs: 90_000 });

const ROUNDS = 6;
const MOMENTS = 30;
const VICTIM = fileURLToPath(new URL('../support/journal-victim.ts', import.meta.url));

/** What the victim was told: the version of a slot is in the log as this record. */
interface Acknowledged {
  readonly slot: number;
  readonly version: number;
  readonly sequence: number;
}

test('killed while it folds and seals, a journal has every acknowledged write at every moment', async (t) => {
  const directory = join(await t.tempDir(), 'journal');
  const random = randomSource(31);
  const acknowledged: Acknowledged[] = [];
  let opened = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const first = Math.max(0, ...acknowledged.map(({ version }) => version)) + 1;
    acknowledged.push(...(await runVictim(t, { directory, first, lines: 300 + Math.floor(random() * 900) })));
    const options = { key: KEY, machineId: MACHINE, segmentBytes: VICTIM_SEGMENT_BYTES };
    await using journal = await Journal.open(directory, options);
    const last = acknowledged.reduce((most, { sequence }) => Math.max(most, sequence), 0);
    assert.ok(journal.lastSequence >= last, `${journal.lastSequence} of ${last}`);
    for (let moment = 0; moment < MOMENTS; moment++) {
      const chosen = acknowledged[Math.floor(random() * acknowledged.length)];
      assert.ok(chosen !== undefined);
      const { sequence } = await journal.resolve({ sequence: chosen.sequence });
      assert.equal(sequence, chosen.sequence);
      await using view = await journal.openView(0, sequence);
      await using base = memoryDevice({ sizeBytes: SLOTS * SLOT_BYTES });
      const content = Buffer.alloc(SLOTS * SLOT_BYTES);
      await layeredDevice({ base, layer: view, disk: 0 }).read(0, content);
      checkSlots(content, acknowledged, sequence);
      opened += 1;
    }
    await journal.maintain();
  }
  assert.equal(opened, ROUNDS * MOMENTS);
  const sealed = (await readdir(directory)).filter((name) => name.endsWith('.sealed'));
  assert.ok(sealed.length > 1, `${sealed.length} sealed`);
});

/** Each slot has one version: the last that was acknowledged up to there, or one whose acknowledgement was lost. */
function checkSlots(content: Buffer, acknowledged: readonly Acknowledged[], sequence: number): void {
  for (let slot = 0; slot < SLOTS; slot++) {
    const data = content.subarray(slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES);
    const found = data.readUInt32LE(0);
    for (let at = 0; at < SLOT_BYTES; at += 4) assert.equal(data.readUInt32LE(at), found, 'one version in a slot');
    const newest = acknowledged.findLast((one) => one.slot === slot && one.sequence <= sequence)?.version ?? 0;
    const next = acknowledged.find((one) => one.slot === slot && one.sequence > sequence)?.version;
    const isLost = found > newest && (next === undefined || found < next || found === newest + 1);
    assert.ok(found === newest || isLost, `slot ${slot} at ${sequence}: ${found}, acknowledged ${newest}`);
  }
}

/** Runs the writer and kills it in the middle of its work; settles with what it had acknowledged. */
async function runVictim(
  t: TestContext,
  run: { readonly directory: string; readonly first: number; readonly lines: number },
): Promise<Acknowledged[]> {
  const path = join(await t.tempDir(), 'acknowledged');
  await writeFile(path, '');
  const child = spawn(process.execPath, [VICTIM, run.directory, path, String(run.first)], { stdio: 'inherit' });
  t.use({ close: () => void child.kill('SIGKILL') });
  const exited = once(child, 'exit');
  let text = '';
  while (text.split('\n').length <= run.lines) {
    assert.equal(child.exitCode, null, 'the victim lives until it is killed');
    await delay(5);
    text = await readFile(path, 'latin1');
  }
  child.kill('SIGKILL');
  await exited;
  const lines = (await readFile(path, 'latin1')).split('\n').slice(0, -1);
  return lines.map((line) => {
    const [slot, version, sequence] = line.split(' ').map(Number);
    assert.ok(slot !== undefined && version !== undefined && sequence !== undefined);
    return { slot, version, sequence };
  });
}
