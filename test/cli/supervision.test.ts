// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { journalLines, LogFile } from '../../appliance/cli/log-file.ts';
import { feedWatchdog } from '../../appliance/cli/watchdog.ts';
import type { Supervisor } from '../../appliance/core/supervisor.ts';
import { suite } from '../support/suite.ts';

const test = suite('a supervised service and its log');

class Listener implements Supervisor {
  readonly watchdogMs = 15;
  readonly heard: string[] = [];

  tell(news: string): boolean {
    this.heard.push(news);
    return true;
  }
}

test('signs of life come as long as the threads answer, and not while one does not', async (t) => {
  const supervisor = new Listener();
  const troubles: string[] = [];
  let answer: () => Promise<void> = async () => undefined;
  t.use(feedWatchdog({ supervisor, isWorking: () => answer(), onTrouble: ({ message }) => troubles.push(message) }));
  while (supervisor.heard.length < 3) await delay(1);
  const never = Promise.withResolvers<void>();
  let asked = 0;
  answer = () => {
    asked += 1;
    return never.promise;
  };
  while (asked === 0) await delay(1);
  const before = supervisor.heard.length;
  await delay(60);
  assert.deepEqual([supervisor.heard.length, asked], [before, 1]);
  answer = () => Promise.reject(new Error('a codec thread died'));
  never.resolve();
  while (troubles.length === 0) await delay(1);
  const after = supervisor.heard.length;
  await delay(30);
  assert.deepEqual([supervisor.heard.length, troubles], [after, ['a codec thread died']]);
});

test('a log has at most two files of the size that was named, and no line is torn', async (t) => {
  const path = join(await t.tempDir(), 'serve.log');
  await writeFile(path, 'from before\n');
  const log = new LogFile(path, 1_000);
  for (let n = 0; n < 500; n++) log.write(`line ${String(n).padStart(5, '0')}\n`);
  log.close();
  const lines: string[] = [];
  for (const name of [`${path}.1`, path]) {
    assert.ok((await stat(name)).size <= 1_000);
    assert.equal((await stat(name)).mode % 0o1000, name === path ? 0o600 : (await stat(name)).mode % 0o1000);
    lines.push(...(await readFile(name, 'utf8')).trimEnd().split('\n'));
  }
  assert.equal(lines.at(-1), 'line 00499');
  for (const [n, line] of lines.entries()) {
    assert.equal(line, `line ${String(500 - lines.length + n).padStart(5, '0')}`);
  }
});

test('a log whose file cannot be written loses lines, says how many, and ends nothing', async (t) => {
  const log = new LogFile('/dev/full');
  for (let n = 0; n < 3; n++) log.write('{"level":30,"msg":"x"}\n');
  log.close();
  const directory = await t.tempDir();
  const path = join(directory, 'small');
  const other = new LogFile(path, 100);
  other.write(`${'x'.repeat(200)}\n`);
  other.write('y\n');
  other.close();
  assert.equal(await readFile(path, 'utf8'), 'y\n');
});

test('lines for the journal begin with the priority of their level', () => {
  const lines: string[] = [];
  const stream = journalLines({ write: (line) => lines.push(line) });
  for (const level of [20, 30, 40, 50, 60]) stream.write(`{"level":${level}}\n`);
  stream.write('something else\n');
  assert.deepEqual(
    lines.map((line) => line.slice(0, 3)),
    ['<7>', '<6>', '<4>', '<3>', '<2>', '<6>'],
  );
});
