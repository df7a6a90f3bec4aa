// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { chmod, cp, mkdir, readFile, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findProgram } from '../support/requirements.ts';
import { runProcess } from '../support/run-process.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import type { ProcessEnd } from '../support/verdict.ts';

/*
 * scripts/setup and the launcher, in a folder of their own: real scripts, a list of packages that nobody has, and programs
 * such as apt-get and id played by small shell scripts.
 */

const ROOT = join(import.meta.dirname, '../..');
const LIMIT_MS = 20_000;

/** What the scripts may call; everything else is missing there. */
const TOOLS = ['sh', 'dirname', 'grep', 'cmp', 'cat', 'env', 'readlink', 'mkdir'];

interface Stage {
  readonly folder: string;
  /** Writes a shell script that plays a program. */
  play(name: string, script: string): Promise<void>;
  run(script: string, ...args: readonly string[]): Promise<ProcessEnd>;
}

/** A copy of the scripts with one needed package, `alpha`, whose program `alpha-tool` is missing; npm packages are there. */
async function stageFor(t: TestContext): Promise<Stage> {
  const folder = await realpath(await t.tempDir());
  const programs = join(folder, 'programs');
  await mkdir(programs);
  await cp(join(ROOT, 'scripts'), join(folder, 'scripts'), { recursive: true });
  await cp(join(ROOT, 'understudy'), join(folder, 'understudy'));
  await writeFile(
    join(folder, 'scripts/packages.txt'),
    'run alpha alpha-tool # needed\nrun beta sh # there\nbench gamma gamma-tool # for others\n',
  );
  await writeFile(join(folder, 'package-lock.json'), '{}');
  await mkdir(join(folder, 'node_modules'));
  await writeFile(join(folder, 'node_modules/.understudy-stamp'), '{}');
  for (const tool of TOOLS) await symlink(await realpath(findProgram(tool) ?? tool), join(programs, tool));
  const play = async (name: string, script: string): Promise<void> => {
    await writeFile(join(programs, name), `#!/bin/sh\n${script}\n`);
    await chmod(join(programs, name), 0o755);
  };
  const run = (script: string, ...args: readonly string[]): Promise<ProcessEnd> =>
    runProcess([join(programs, 'sh'), join(folder, script), ...args], {
      limitMs: LIMIT_MS,
      env: { PATH: programs, HOME: folder },
    });
  return { folder, play, run };
}

const test = suite('scripts');

test('every line of packages.txt has group, package, probe and a reason', async () => {
  const lines = (await readFile(join(ROOT, 'scripts/packages.txt'), 'utf8'))
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  assert.ok(lines.length > 10);
  for (const line of lines) {
    assert.match(line, /^(run|test|ci|demo|bench|compile) +[a-z0-9.+-]+ +[^ #]+ +# .{10,}$/);
  }
});

test('setup does nothing and says nothing when everything is there', async (t) => {
  const stage = await stageFor(t);
  await stage.play('alpha-tool', 'exit 0');
  const end = await stage.run('scripts/setup', 'run');
  assert.deepEqual([end.exitCode, end.output], [0, '']);
});

test('setup installs as root what is missing and nothing else, after saying so', async (t) => {
  const stage = await stageFor(t);
  await stage.play('id', 'echo 0');
  await stage.play('apt-get', 'echo "apt-get: $*"');
  const end = await stage.run('scripts/setup', 'run');
  assert.equal(end.exitCode, 0);
  assert.deepEqual(end.output.trimEnd().split('\n'), [
    'setup: installing with apt-get: alpha',
    'apt-get: -q update',
    'apt-get: -q -y -o Dpkg::Use-Pty=0 install --no-install-recommends alpha',
  ]);
});

test('setup prints the exact command and stops without root', async (t) => {
  const stage = await stageFor(t);
  await stage.play('id', 'echo 1000');
  await stage.play('apt-get', 'echo "must not be called"');
  const end = await stage.run('scripts/setup', 'run');
  assert.equal(end.exitCode, 1);
  assert.match(end.output, /\n {2}su - -c "apt-get update && apt-get install --no-install-recommends alpha"\n$/);
  assert.doesNotMatch(end.output, /must not be called/);
});

test('setup does not wait for the password of sudo when nobody can type it', async (t) => {
  const stage = await stageFor(t);
  await stage.play('id', 'echo 1000');
  await stage.play('apt-get', 'echo "must not be called"');
  await stage.play('sudo', '[ "$1" = -n ] && exit 1; echo "must not be called"');
  const end = await stage.run('scripts/setup', 'run');
  assert.equal(end.exitCode, 1);
  assert.match(end.output, /\n {2}sudo apt-get update && sudo apt-get install --no-install-recommends alpha\n$/);
  assert.doesNotMatch(end.output, /must not be called/);
});

test('setup uses sudo where it asks for no password', async (t) => {
  const stage = await stageFor(t);
  await stage.play('id', 'echo 1000');
  await stage.play('sudo', '[ "$1" != -n ] || shift; [ "$1" != true ] || exit 0; exec "$@"');
  await stage.play('apt-get', 'echo "apt-get: $*"');
  const end = await stage.run('scripts/setup', 'run');
  assert.equal(end.exitCode, 0);
  assert.match(end.output, /^setup: installing with sudo apt-get: alpha$/m);
});

test('setup names what is missing where there is no apt-get', async (t) => {
  const stage = await stageFor(t);
  const end = await stage.run('scripts/setup', 'run');
  assert.equal(end.exitCode, 1);
  assert.match(end.output, /neither Debian nor Ubuntu/);
  assert.match(end.output, /^run alpha alpha-tool # needed$/m);
  assert.doesNotMatch(end.output, /beta|gamma/);
});

test('setup fails when apt-get does', async (t) => {
  const stage = await stageFor(t);
  await stage.play('id', 'echo 0');
  await stage.play('apt-get', '[ "$2" = update ]');
  const end = await stage.run('scripts/setup', 'run');
  assert.equal(end.exitCode, 1);
  assert.match(end.output, /could not install: alpha/);
});

test('the launcher says what to do before the first set-up', async (t) => {
  const stage = await stageFor(t);
  await rm(join(stage.folder, 'node_modules'), { recursive: true });
  const end = await stage.run('understudy', '--version');
  assert.equal(end.exitCode, 1);
  assert.match(end.output, /not set up yet.*npm run setup/);
});

test('the launcher refuses a Node that is too old', async (t) => {
  const stage = await stageFor(t);
  await stage.play('node', 'echo 20');
  const end = await stage.run('understudy', '--version');
  assert.equal(end.exitCode, 1);
  assert.match(end.output, /no Node 24 here/);
});

test("the launcher takes the user's own Node when the pinned one is missing", async (t) => {
  const stage = await stageFor(t);
  await stage.play('node', '[ "$1" = -p ] && echo 26 || echo "node $*"');
  const end = await stage.run('understudy', 'points', 'a b');
  assert.equal(end.exitCode, 0);
  assert.equal(end.output, `node ${stage.folder}/appliance/cli.ts points a b\n`);
});

test('the launcher keeps what Node compiles in its own folder, unless it is said where', async (t) => {
  const stage = await stageFor(t);
  await stage.play('node', '[ "$1" = -p ] && echo 26 || echo "$NODE_COMPILE_CACHE"');
  assert.equal((await stage.run('understudy')).output, `${stage.folder}/.cache/compile\n`);
  const env = { PATH: join(stage.folder, 'programs'), NODE_COMPILE_CACHE: '/elsewhere' };
  const end = await runProcess(['sh', join(stage.folder, 'understudy')], { limitMs: LIMIT_MS, env });
  assert.equal(end.output, '/elsewhere\n');
});

test('a source that changed is not run from what was compiled before', async (t) => {
  const dir = await t.tempDir();
  const script = join(dir, 'script.ts');
  const env = { ...process.env, NODE_COMPILE_CACHE: join(dir, 'cache') };
  for (const word of ['one', 'two', 'two', 'one']) {
    await writeFile(script, `const word: string = '${word}';\nconsole.log(word);\n`);
    const end = await runProcess([process.execPath, script], { limitMs: LIMIT_MS, env });
    assert.equal(end.output, `${word}\n`);
  }
});

test('the launcher finds its folder through a chain of symbolic links', async (t) => {
  const dir = await t.tempDir();
  await symlink(join(ROOT, 'understudy'), join(dir, 'first'));
  await symlink('first', join(dir, 'second'));
  const { version } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as { version: string };
  const end = await runProcess([join(dir, 'second'), '--version'], { limitMs: LIMIT_MS });
  assert.deepEqual([end.exitCode, end.output], [0, `${version}\n`]);
});
