// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { realFileSystem } from '../../appliance/core/file-system.ts';
import { randomSource } from '../support/crashing-file-system.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { KEY, openLog, readDisk } from '../support/write-log-model.ts';
import { SLOT_BYTES, SLOTS } from '../support/write-log-victim.ts';

const test = suite('write log, killed', { timeoutMs: 60_000 });

const ROUNDS = 10;
const VICTIM = fileURLToPath(new URL('../support/write-log-victim.ts', import.meta.url));

for (const key of [null, KEY]) {
  test(`${key === null ? 'plain' : 'encrypted'}: a killed process loses no write that was acknowledged`, async (t) => {
    const directory = join(await t.tempDir(), 'log');
    const random = randomSource(23);
    const acknowledged = Array.from({ length: SLOTS }, () => 0);
    for (let round = 0; round < ROUNDS; round++) {
      const first = Math.max(...acknowledged) + 1;
      await runVictim(t, { directory, key, first, lines: 1 + Math.floor(random() * 800), acknowledged });
      const log = await openLog({ directory, fileSystem: realFileSystem, key });
      const disk = await readDisk(log, 0, SLOTS * SLOT_BYTES);
      for (const [slot, version] of acknowledged.entries()) {
        const content = disk.subarray(slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES);
        const found = content.readUInt32LE(0);
        const isNext = found === version + 1 || found === first;
        assert.ok(found === version || isNext, `slot ${slot}: ${found}, acknowledged ${version}`);
        for (let at = 0; at < SLOT_BYTES; at += 4)
          assert.equal(content.readUInt32LE(at), found, 'one version in a slot');
        acknowledged[slot] = found;
      }
      await log.close();
    }
    assert.ok(Math.min(...acknowledged) > ROUNDS);
  });
}

interface VictimRun {
  readonly directory: string;
  readonly key: Buffer | null;
  readonly first: number;
  /** Killed after this many acknowledgements. */
  readonly lines: number;
  readonly acknowledged: number[];
}

/** Runs the writer, kills it in the middle of its work, and takes over what it had acknowledged. */
async function runVictim(t: TestContext, run: VictimRun): Promise<void> {
  const parameters = [VICTIM, run.directory, run.key?.toString('hex') ?? '', String(run.first)];
  const child = spawn(process.execPath, parameters, { stdio: ['ignore', 'pipe', 'inherit'] });
  t.use({ close: () => void child.kill('SIGKILL') });
  const exited = once(child, 'exit');
  let text = '';
  let isKilled = false;
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1');
    if (!isKilled && text.split('\n').length > run.lines) {
      isKilled = true;
      child.kill('SIGKILL');
    }
  });
  await Promise.all([exited, once(child.stdout, 'close')]);
  assert.equal(isKilled, true, text.slice(0, 500));
  for (const line of text.split('\n').slice(0, -1)) {
    const match = /^(\d+) (\d+)$/.exec(line);
    if (match !== null) run.acknowledged[Number(match[1])] = Number(match[2]);
  }
}
