// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { runProcess } from './run-process.ts';
import { suite } from './suite.ts';
import { judgeFile, type ProcessEnd, type Verdict } from './verdict.ts';

/*
 * The trap files are the evidence for docs/decisions/0003-guarded-uvu.md: what bare uvu lets pass, and that the guarded one
 * together with the driver does not. A trap is run as the driver runs a test file.
 */

const LIMIT_MS = 20_000;

async function runTrap(path: string, env: NodeJS.ProcessEnv = {}, limitMs = LIMIT_MS): Promise<ProcessEnd & Verdict> {
  const command = [process.execPath, join(import.meta.dirname, 'traps', path)];
  const { REQUIRE_PEERS: _, UNDERSTUDY_TEST_PATIENCE: __, ...inherited } = process.env;
  const end = await runProcess(command, { limitMs, env: { ...inherited, ...env } });
  return { ...end, ...judgeFile(end) };
}

/** Passed, failed, skipped, as the driver counts them. */
function tally({ counts }: Verdict): [number, number, number] {
  return [counts.passed, counts.failed, counts.skipped];
}

const bare = suite('bare uvu');

for (const trap of [
  'forgotten-run',
  'throwing-before',
  'throwing-after-each',
  'stray-only',
  'thrown-undefined',
] as const) {
  bare(`exits with 0 for ${trap}, and the driver makes it red`, async () => {
    const result = await runTrap(`bare-uvu/${trap}.ts`);
    assert.equal(result.exitCode, 0);
    assert.deepEqual(result.problems, ['no line of counts']);
    assert.deepEqual(tally(result), [0, 1, 0]);
  });
}

bare('hangs on a leaked handle, and the driver kills it at its limit', async () => {
  const result = await runTrap('bare-uvu/leaked-handle.ts', {}, 1_000);
  assert.equal(result.wasKilledAtLimit, true);
  assert.deepEqual(tally(result), [0, 1, 0]);
});

const guarded = suite('guarded uvu');

guarded('is green when every test passes, also when the file awaits at its top level', async () => {
  const result = await runTrap('guarded/passing.ts');
  assert.deepEqual(result.problems, []);
  assert.deepEqual(tally(result), [1, 0, 0]);
  assert.equal(result.exitCode, 0);
});

guarded('disposes in reverse order, by asyncDispose, dispose or close', async () => {
  const result = await runTrap('guarded/cleanup-order.ts');
  assert.deepEqual(result.problems, []);
  assert.deepEqual(result.output.match(/disposed .*/g), [
    'disposed 3 by asyncDispose',
    'disposed 2 by dispose',
    'disposed 1 by close',
  ]);
});

/** Trap, and what the driver must count: passed, failed, skipped. */
const RED: readonly [string, [number, number, number]][] = [
  ['no-tests', [0, 1, 0]],
  ['failing', [1, 1, 0]],
  ['thrown-undefined', [0, 1, 0]],
  ['failing-cleanup', [0, 1, 0]],
  ['failing-shared-cleanup', [1, 1, 0]],
  ['failing-twice', [0, 1, 0]],
  ['too-slow', [1, 1, 0]],
  ['unhandled-rejection', [1, 1, 0]],
  ['uncaught-exception', [1, 1, 0]],
  ['early-exit', [0, 2, 0]],
  ['throws-at-load', [0, 2, 0]],
  ['late-registration', [0, 1, 0]],
];
for (const [trap, expected] of RED) {
  guarded(`is red for ${trap}`, async () => {
    const result = await runTrap(`guarded/${trap}.ts`);
    assert.deepEqual(tally(result), expected);
    assert.equal(result.exitCode, 1);
  });
}

guarded('names both causes when a test and its cleanup fail', async () => {
  const { output } = await runTrap('guarded/failing-twice.ts');
  assert.match(output, /first cause/);
  assert.match(output, /cleanup failed: second cause/);
});

guarded('disposes what tests share after the last of them, and makes it anew after one that failed', async () => {
  const result = await runTrap('guarded/sharing.ts');
  assert.deepEqual(tally(result), [3, 1, 0]);
  assert.deepEqual(result.output.match(/(made|disposed) \d/g), ['made 1', 'disposed 1', 'made 2', 'disposed 2']);
});

guarded('is red when something was left open, and names it', async () => {
  const result = await runTrap('guarded/leaked-handle.ts');
  assert.deepEqual(tally(result), [1, 1, 0]);
  assert.equal(result.exitCode, 1);
  assert.match(result.output, /still alive, kept by: .*TCPServerWrap/);
});

guarded('aborts a test that used up its time before disposing its resources', async () => {
  const { output } = await runTrap('guarded/too-slow.ts');
  assert.match(output, /aborted before disposal: true/);
});

guarded('refuses two tests of one title', async () => {
  const result = await runTrap('guarded/same-title.ts');
  assert.equal(result.exitCode, 1);
  assert.equal(result.counts.passed, 0);
});

guarded('skips with the reason when a program is missing', async () => {
  const result = await runTrap('guarded/skipping.ts');
  assert.deepEqual(result.problems, []);
  assert.deepEqual(result.counts.skips, [
    { title: 'needs a program', reason: 'not installed: no-such-program' },
    { title: 'needs another one too', reason: 'not installed: no-such-program, /no/such/device' },
  ]);
});

guarded('fails instead of skipping when peers are required', async () => {
  const result = await runTrap('guarded/skipping.ts', { REQUIRE_PEERS: '1' });
  assert.deepEqual(tally(result), [0, 2, 0]);
});

const driver = suite('driver');

driver('kills a file that blocks its event loop', async () => {
  const result = await runTrap('guarded/never-ends.ts', {}, 1_000);
  assert.equal(result.wasKilledAtLimit, true);
  assert.equal(result.counts.failed, 1);
});

driver('kills and names processes that a file left behind', async () => {
  const result = await runTrap('guarded/left-process.ts');
  assert.equal(result.leftBehind.length, 1);
  assert.match(result.leftBehind[0] ?? '', /^sleep 100 \(pid \d+\)$/);
  assert.deepEqual(tally(result), [1, 1, 0]);
});

driver('finds a daemon that left the process group, too', async () => {
  const result = await runTrap('guarded/left-daemon.ts');
  assert.match(result.leftBehind.join(), /^sleep 101 \(pid \d+\)$/);
  assert.deepEqual(tally(result), [1, 1, 0]);
});

driver('does not believe counts that hide a skip or do not add up', async () => {
  const skip = await runTrap('guarded/unexplained-skip.ts');
  assert.deepEqual(skip.problems, ['tests were skipped without a reason']);
  const sum = await runTrap('guarded/wrong-sum.ts');
  assert.deepEqual(sum.problems, ['the counts do not add up']);
  assert.deepEqual(tally(sum), [2, 1, 0]);
});

driver('makes a program that does not exist a failure', async () => {
  const end = await runProcess(['/no/such/program'], { limitMs: LIMIT_MS });
  assert.equal(end.exitCode, 127);
  assert.equal(judgeFile(end).counts.failed, 1);
});

driver('keeps the end of an output that would fill the memory', async () => {
  const script = 'for (let i = 0; i < 40_000; i++) console.log("x".repeat(99)); console.log("the end")';
  const end = await runProcess([process.execPath, '-e', script], { limitMs: LIMIT_MS });
  assert.ok(end.output.length < 1_000_000);
  assert.ok(end.output.endsWith('the end\n'));
});
