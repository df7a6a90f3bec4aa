// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import type { BootedMachine, MachineDisk, MachineSummary, PointSummary } from '../../appliance/api/operations.ts';
import { bootedTable, renderRewind } from '../../appliance/cli/commands/boot.ts';
import { troublesOf } from '../../appliance/cli/commands/protect.ts';
import { shortIds } from '../../appliance/cli/format.ts';
import { runCommand } from '../support/cli-harness.ts';
import { FAKE_POINT_ID, fakeResults } from '../support/fake-results.ts';
import { fakeRetentionResults } from '../support/fake-retention.ts';
import { fakeStandbyResults } from '../support/fake-standby.ts';
import { suite } from '../support/suite.ts';

const test = suite('tables');
const GIB: number = 2 ** 30;
const TERMINAL_COLUMNS = 80;
/** For a machine whose disks are protected in three ways. */
const WORST_COLUMNS = 100;
/** As long as names of machines mostly are. */
const NAME = 'mail-frontend-02';
const OTHER_POINT_ID = '9a8b7c6d5e4f3a2b';

/** The widest values that a column shows: four digits, the longest kind, a long connection. */
const point: PointSummary = {
  ...(fakeResults.points[0] as PointSummary),
  id: OTHER_POINT_ID,
  machine: NAME,
  kind: 'incremental',
  consistency: 'application-consistent',
  sizeBytes: 1023 * GIB,
  dataBytes: 1023 * GIB,
  newChunkBytes: 1023 * GIB,
  storedBytes: 1023 * GIB,
};
const bootedMachine: BootedMachine = {
  ...fakeResults.booted,
  name: `${NAME}-3f2a91c0`,
  connect: 'qemu+unix:///session?socket=/var/tmp/us-demo-BQ5fM2/lv/r/libvirt/libvirt-sock',
  writtenBytes: 1023 * GIB,
};
const [vda, vdb, cdrom] = fakeResults.machine.disks as [MachineDisk, MachineDisk, MachineDisk];
const behaviour = {
  points: async (): Promise<PointSummary[]> => [point, { ...point, id: FAKE_POINT_ID, kind: 'full-scan' as const }],
  machineList: async (): Promise<MachineSummary[]> => [
    { ...fakeResults.machine, name: NAME, disks: [vda, cdrom] },
    { ...fakeResults.machine, name: 'db', state: 'shut off', newestPoint: null, points: 0 },
    { ...fakeResults.machine, name: 'empty', disks: [cdrom] },
    { ...fakeResults.machine, name: 'raw', disks: [vdb], newestPoint: '2026-11-21T14:04:05.000Z' },
    { ...fakeResults.machine, name: 'mixed', disks: [vda, vdb, { ...vdb, name: 'vdc', protection: 'none' }] },
  ],
};

async function linesOf(line: string): Promise<string[]> {
  const { stdout, exitCode } = await runCommand(line.split(' '), { behaviour });
  assert.equal(exitCode, 0);
  return stdout.trimEnd().split('\n');
}

test(`\`retention preview\` fits in ${TERMINAL_COLUMNS} columns, whatever the names and reasons`, async () => {
  const [first] = fakeRetentionResults.preview.points;
  assert.ok(first !== undefined);
  const other = { ...first, machine: `${NAME}-and-more`, machineId: 'another', reasons: [`held: ${'x'.repeat(200)}`] };
  for (const points of [fakeRetentionResults.preview.points, [...fakeRetentionResults.preview.points, other]]) {
    const { stdout } = await runCommand(['retention', 'preview', '--all', '--keep-last', '1'], {
      behaviour: { retentionPreview: async () => ({ ...fakeRetentionResults.preview, points }) },
    });
    for (const text of stdout.split('\n')) assert.ok(text.length <= TERMINAL_COLUMNS, `${text.length}: ${text}`);
    assert.match(stdout, /3f2a91c0 .* keep {2}the newest point;/);
  }
});

for (const [line, columns] of [
  ['points', TERMINAL_COLUMNS],
  ['machine list', WORST_COLUMNS],
] as const) {
  test(`\`${line}\` fits in ${columns} columns, and has more with --wide`, async () => {
    const brief = await linesOf(line);
    for (const text of brief) assert.ok(text.length <= columns, `${text.length}: ${text}`);
    const wide = await linesOf(`${line} --wide`);
    assert.equal(wide.length, brief.length);
    assert.ok(Math.max(...wide.map((text) => text.length)) > columns);
  });
}

test(`booted machines fit in ${TERMINAL_COLUMNS} columns, and have their connection with --wide`, () => {
  const paint = (_format: unknown, text: string): string => text;
  const table = (wide: boolean): string[] => bootedTable([bootedMachine], { wide, paint }).split('\n');
  for (const text of table(false)) assert.ok(text.length <= TERMINAL_COLUMNS, `${text.length}: ${text}`);
  assert.ok(!table(false).join('').includes(bootedMachine.connect));
  assert.ok(table(true).join('').includes(bootedMachine.connect));
  assert.ok(table(true).join('').includes(FAKE_POINT_ID));
});

test('`points` shows beginnings of ids, and whole ones with --wide', async () => {
  const ids = async (line: string): Promise<string[]> =>
    (await linesOf(line)).slice(1, 3).map((text) => text.split(' ')[0] ?? '');
  assert.deepEqual(await ids('points'), [OTHER_POINT_ID.slice(0, 8), FAKE_POINT_ID.slice(0, 8)]);
  assert.deepEqual(await ids('points --wide'), [OTHER_POINT_ID, FAKE_POINT_ID]);
});

test(`every help fits in ${TERMINAL_COLUMNS} columns`, async () => {
  const page = await readFile(new URL('../../docs/cli.md', import.meta.url), 'utf8');
  const commands = [...page.matchAll(/^### `understudy ([a-z ]*[a-z])/gm)].map((match) => match[1] ?? '');
  assert.ok(commands.length > 15);
  for (const command of ['', ...commands]) {
    const words = command === '' ? [] : command.split(' ');
    const { stdout } = await runCommand([...words, '--help'], { isTerminal: true, env: { NO_COLOR: '1' } });
    for (const text of stdout.split('\n')) assert.ok(text.length <= TERMINAL_COLUMNS, `${command}: ${text}`);
  }
});

test('short ids are longer where eight digits are not enough', () => {
  const [one, other] = ['3f2a91c04b7d8e11', '3f2a91c04bff0000'] as const;
  const short = shortIds([one, other, one]);
  assert.deepEqual([short(one), short(other)], ['3f2a91c04b7', '3f2a91c04bf']);
  assert.equal(shortIds([])(one), '3f2a91c0');
});

test('`machine list` names the disks that are worse off than others of their machine, drives aside', async () => {
  const columns = (await linesOf('machine list')).map((text) => text.split(/ {2,}/).slice(2, 4));
  assert.deepEqual(columns, [
    ['PROTECTION', 'POLICY'],
    ['changed blocks', 'nightly'],
    ['full scan: vdb', 'nightly'],
    ['–', 'nightly'],
    ['full scan', 'nightly'],
    ['full scan: vdb; not protected: vdc', 'nightly'],
  ]);
});

for (const line of ['timeline web', 'timeline web --wide', 'writes web --around now']) {
  test(`\`${line}\` fits in ${TERMINAL_COLUMNS} columns`, async () => {
    for (const text of await linesOf(line)) assert.ok(text.length <= TERMINAL_COLUMNS, `${text.length}: ${text}`);
  });
}

test('a timeline shows rates, stretches, gaps, points and bookmarks where they are', async () => {
  const row = async (label: string): Promise<string> =>
    (await linesOf('timeline web')).find((text) => text.startsWith(label))?.slice(10) ?? '';
  const places = (text: string, sign: string): number[] =>
    [...text.matchAll(new RegExp(sign, 'g'))].map(({ index }) => index);
  // An hour in 66 cells: minute n lies in cell floor(1.1 n).
  assert.deepEqual(places(await row('points'), '●'), [4]);
  assert.deepEqual(places(await row('bookmarks'), '◆'), [22]);
  assert.equal((await row('writes')).trim().replaceAll(/ +/g, ' '), '█ ▄');
  const journal = (await row('journal')).padEnd(66);
  assert.equal(journal, `${' '.repeat(5)}·${'━'.repeat(27)}·  ·${'━'.repeat(29)}`);
});

test('why a machine is not protected, and what else is wrong with it, is said without being asked', () => {
  const paint = (_style: unknown, text: string): string => text;
  assert.equal(troublesOf(fakeResults.protection, paint), '');
  const problems = ['no recovery point could be folded: the disk is full'];
  assert.equal(
    troublesOf(
      { ...fakeResults.protection, state: 'behind', reason: 'the connection of vda was cut', problems },
      paint,
    ),
    'web is behind: the connection of vda was cut\nweb: no recovery point could be folded: the disk is full\n',
  );
});

test('a rewind says what the machine is now, and how that is undone', () => {
  const paint = (_style: unknown, text: string): string => text;
  const text = renderRewind(fakeStandbyResults.rewind, { paint });
  assert.match(text, /^web-3f2a is what it was at 2026-11-21 .*, and runs; it was off for 0.90 s\.$/m);
  assert.match(text, /rewind 'web-3f2a@bookmark:"before the rewind to 2026-11-21T10:31:07\.250Z"'/);
});
