// SPDX-License-Identifier: Apache-2.0
// time limit: 1200 s
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, chown, cp, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { processesOf } from '../../demo/processes.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import { GUEST_REQUIREMENTS } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

/*
 * The demo as a user runs it, as a process in a process group of its own, which a terminal's Ctrl-C reaches as a whole.
 */

const ROOT = join(import.meta.dirname, '../..');
const DEMO = join(ROOT, 'demo/demo.ts');
const NOBODY = 65534;

interface Run {
  readonly child: ChildProcess;
  /** What it showed so far. */
  text(): string;
  /** Settles when it has shown `text`, or has ended. */
  shows(text: string): Promise<void>;
  /** Exit code and standard output. */
  readonly ended: Promise<{ readonly exitCode: number | null; readonly stdout: string }>;
}

interface RunOptions {
  readonly args?: readonly string[];
  /** Program and arguments in front of Node. */
  readonly through?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

function startDemo(t: TestContext, { args = [], through = [], env = {} }: RunOptions = {}): Run {
  const command = [...through, process.execPath, DEMO, '--disk-mib', '128', ...args];
  const child = spawn(command[0] ?? '', command.slice(1), {
    cwd: ROOT,
    detached: true,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let shown = '';
  let stdout = '';
  const onText = (text: string): void => {
    shown += text;
    child.emit('shown');
  };
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    onText(text);
  });
  child.stderr.setEncoding('utf8').on('data', onText);
  t.signal.addEventListener('abort', () => {
    if (child.exitCode === null && child.signalCode === null) process.stdout.write(`the demo still runs:\n${shown}\n`);
  });
  const ended = once(child, 'close').then(() => ({ exitCode: child.exitCode, stdout }));
  t.use({
    close: async () => {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
      await ended;
    },
  });
  const shows = async (text: string): Promise<void> => {
    let hasEnded = false;
    void ended.then(() => {
      hasEnded = true;
      child.emit('shown');
    });
    while (!shown.includes(text) && !hasEnded) await once(child, 'shown');
  };
  return { child, text: () => shown, shows, ended };
}

/** The directories that the demo named, which all have unique names. */
function directoriesOf(shown: string): string[] {
  const demo = /^ +export DEMO=(\S+)$/m.exec(shown)?.[1];
  const libvirt = /socket=(\/\S+?)\/r\/libvirt/.exec(shown)?.[1];
  assert.ok(demo !== undefined && libvirt !== undefined, shown);
  return [demo, libvirt];
}

async function assertNothingLeft(shown: string): Promise<void> {
  for (const directory of directoriesOf(shown)) {
    assert.equal(existsSync(directory), false, directory);
    assert.deepEqual(await processesOf(directory), []);
  }
}

/** Not root, with a home of its own, whoever runs the tests. */
async function ordinaryUser(t: TestContext): Promise<RunOptions> {
  const home = await t.tempDir();
  const temporary = await t.tempDir();
  const caches = join(home, '.cache/understudy');
  await mkdir(caches, { recursive: true });
  // The guest's kernel would be downloaded otherwise, and libvirt would examine QEMU for seconds.
  for (const name of ['guest', 'libvirt']) {
    const cache = join(ROOT, '.cache', name);
    if (existsSync(cache)) await cp(cache, join(caches, name), { recursive: true });
  }
  const isRoot = process.getuid?.() === 0;
  if (isRoot) {
    for (const directory of [home, temporary]) await chown(directory, NOBODY, NOBODY);
    execFileSync('chown', ['-R', `${NOBODY}:${NOBODY}`, home]);
  }
  const through = isRoot ? ['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'] : [];
  return { through, env: { HOME: home, TMPDIR: temporary, XDG_CACHE_HOME: join(home, '.cache') } };
}

const test = suite('demo', { requires: [...GUEST_REQUIREMENTS, 'virsh'], timeoutMs: 400_000 });

test('run by an ordinary user, every claim holds, and the figures come as one document', async (t) => {
  const run = startDemo(t, { args: ['--json'], ...(await ordinaryUser(t)) });
  const { exitCode, stdout } = await run.ended;
  assert.equal(exitCode, 0, run.text());
  const document = JSON.parse(stdout) as Record<string, unknown> & {
    claims: { text: string; holds: boolean }[];
    firstBackup: Record<string, number | string>;
    secondBackup: Record<string, number | string>;
  };
  assert.deepEqual(
    document.claims.filter(({ holds }) => !holds),
    [],
  );
  assert.equal(document.claims.length, 13);
  assert.equal(document.firstBackup['kind'], 'full');
  assert.equal(document.secondBackup['kind'], 'incremental');
  assert.ok(Number(document.secondBackup['readBytes']) < Number(document.firstBackup['readBytes']));
  for (const name of ['originalBootMs', 'bootMs', 'restoreMs', 'checkMs', 'totalMs', 'logicalBytes', 'storedBytes']) {
    assert.ok(Number(document[name]) > 0, name);
  }
  await assertNothingLeft(run.text());
});

test('the story of continuous protection ends with everything there', async (t) => {
  const run = startDemo(t, { args: ['--continuous', '--json'], env: { TMPDIR: await t.tempDir() } });
  const { exitCode, stdout } = await run.ended;
  assert.equal(exitCode, 0, run.text());
  const document = JSON.parse(stdout) as Record<string, unknown> & { claims: { text: string; holds: boolean }[] };
  assert.deepEqual(
    document.claims.filter(({ holds }) => !holds),
    [],
  );
  assert.equal(document.claims.length, 12);
  assert.equal(Date.parse(String(document['deletedAt'])) - Date.parse(String(document['bootedAt'])), 1000);
  for (const name of ['protectMs', 'bootMs', 'journalBytes']) assert.ok(Number(document[name]) > 0, name);
  await assertNothingLeft(run.text());
});

test('Ctrl-C while a machine is under continuous protection leaves nothing behind', async (t) => {
  const run = startDemo(t, { args: ['--continuous'], env: { TMPDIR: await t.tempDir() } });
  await run.shows('guest # rm -rf');
  process.kill(-(run.child.pid ?? 0), 'SIGINT');
  assert.equal((await run.ended).exitCode, 130, run.text());
  await assertNothingLeft(run.text());
});

for (const moment of [
  ['libvirt has just started', 'export LIBVIRT='],
  ['a backup runs', '$ ./understudy backup'],
] as const) {
  test(`Ctrl-C while ${moment[0]} leaves nothing behind`, async (t) => {
    const run = startDemo(t, { env: { TMPDIR: await t.tempDir() } });
    await run.shows(moment[1]);
    process.kill(-(run.child.pid ?? 0), 'SIGINT');
    assert.equal((await run.ended).exitCode, 130, run.text());
    await assertNothingLeft(run.text());
  });
}

test("in the user's own libvirt, an interrupted demo removes its machines and leaves others alone", async (t) => {
  const libvirt = t.use(await PrivateLibvirt.start());
  const virsh = (...args: string[]): string =>
    execFileSync('virsh', ['-q', '-c', libvirt.uri, ...args], { encoding: 'utf8' });
  const directory = await t.tempDir();
  await chmod(directory, 0o755);
  const xml = '<domain type="qemu"><name>other</name><memory unit="MiB">16</memory><os><type>hvm</type></os></domain>';
  await writeFile(join(libvirt.directory, 'other.xml'), xml);
  virsh('define', join(libvirt.directory, 'other.xml'));
  virsh('start', 'other');
  const before = virsh('dumpxml', 'other');
  const run = startDemo(t, { args: ['--connect', libvirt.uri], env: { TMPDIR: directory } });
  await run.shows('guest # sha256sum -c');
  assert.equal(virsh('list', '--all', '--name').trim().split('\n').length, 3);
  run.child.kill('SIGTERM');
  assert.equal((await run.ended).exitCode, 143, run.text());
  assert.deepEqual(virsh('list', '--name', '--all').trim().split('\n'), ['other']);
  assert.equal(virsh('dumpxml', 'other'), before);
  const demo = directoriesOf(run.text())[0] ?? '';
  assert.equal(existsSync(demo), false);
  assert.deepEqual(await processesOf(demo), []);
});

test('bad options are refused with a hint, before anything is made', async (t) => {
  const run = startDemo(t, { args: ['--disk-mib', '1'] });
  assert.equal((await run.ended).exitCode, 2);
  assert.match(run.text(), /--disk-mib takes/);
});
