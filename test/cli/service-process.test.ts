// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { findService } from '../../appliance/api/client/find-service.ts';
import { controlSocketPath } from '../../appliance/api/control-socket.ts';
import { EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { untilThere } from '../support/appliance-process.ts';
import { fakeResults } from '../support/fake-results.ts';
import { LiveProcess, type ProcessResult } from '../support/live-process.ts';
import { isAlive } from '../support/process-state.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('commands and service as processes', { timeoutMs: 60_000 });
const SCRIPT: string = new URL('../support/fake-understudy.ts', import.meta.url).pathname;

interface Machine {
  readonly state: string;
  readonly start: (line: string, behaviour?: string) => LiveProcess;
  readonly run: (line: string, behaviour?: string) => Promise<ProcessResult>;
}

/** A state directory and processes on it; a service that was started in the background ends with the test. */
async function machine(t: TestContext): Promise<Machine> {
  const state = await t.tempDir();
  t.use({
    close: async () => {
      const service = await findService(state).catch(() => undefined);
      if (service !== undefined) await endService(service.pid);
    },
  });
  const start = (line: string, behaviour = ''): LiveProcess => {
    const env = { ...process.env, UNDERSTUDY_STATE: state, FAKE_BEHAVIOUR: behaviour, NO_COLOR: '1' };
    return t.use(new LiveProcess([process.execPath, SCRIPT, ...line.split(' ')], env));
  };
  return { state, start, run: (line, behaviour) => start(line, behaviour).result };
}

async function endService(pid: number, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  process.kill(pid, signal);
  while (isAlive(pid)) await delay(10);
}

test('boot starts the service in the background, says so, and later commands use it', async (t) => {
  const { state, run } = await machine(t);
  const boot = await run('boot web@latest --json');
  assert.equal(boot.exitCode, 0);
  assert.deepEqual(JSON.parse(boot.stdout), fakeResults.boot);
  const service = await findService(state);
  assert.ok(service !== undefined);
  const log = join(state, 'serve.log');
  const note = `note: started \`understudy serve\` in the background (process ${service.pid}, log ${log})\n`;
  assert.equal(boot.stderr, note);

  const bookmark = await run('bookmark web upgrade --json');
  assert.deepEqual(JSON.parse(bookmark.stdout), fakeResults.bookmark);
  const again = await run('boot web@latest --json');
  assert.deepEqual([again.exitCode, again.stderr], [0, '']);
  assert.equal((await run('points')).exitCode, 0);
  assert.equal((await findService(state))?.pid, service.pid);
  const entries = await readFile(log, 'utf8');
  assert.match(entries, /"operation":"boot"/);
});

test('migrate asks the service for what its options say, in bytes and absolute paths', async (t) => {
  const { state, run } = await machine(t);
  const line = 'migrate web-test --dir images --format raw --bandwidth 10 --as web --autostart --no-verify';
  const json = await run(`${line} --json`);
  assert.deepEqual(JSON.parse(json.stdout), fakeResults.migrate);
  const params = { name: 'web-test', directory: join(process.cwd(), 'images'), format: 'raw', bandwidth: 10_485_760 };
  const rest = { as: 'web', autostart: true, verify: false };
  const log = await readFile(join(state, 'serve.log'), 'utf8');
  assert.ok(log.includes(`"params":${JSON.stringify({ ...params, ...rest })}`), log);
  const text = await run('migrate web-test --pool default');
  assert.deepEqual([text.exitCode, text.stderr], [0, '']);
  assert.match(text.stdout, /^web-3f2a91c0 runs from its own storage, 1 min 1 s after the call\.\n/);
  assert.match(text.stdout, /Compared before it went over: 20 GiB, 3 MiB were being written\./);
  for (const wrong of ['--dir a --pool b', '--bandwidth 0', '--bandwidth 1.5', '--format vmdk']) {
    assert.equal((await run(`migrate web-test ${wrong}`)).exitCode, EXIT_CODES.usage, wrong);
  }
});

for (const behaviour of ['', 'slow-open']) {
  test(`boots at once start one service between them${behaviour === '' ? '' : ', also when it opens slowly'}`, async (t) => {
    const { state, run } = await machine(t);
    const lines = ['boot a@latest --json', 'boot b@latest --json', 'boot c@latest'];
    const boots = await Promise.all(lines.map((line) => run(line, behaviour)));
    const said = boots.map((boot) => boot.stderr).join('');
    assert.deepEqual(
      boots.map((boot) => boot.exitCode),
      [0, 0, 0],
      said,
    );
    assert.equal(said.match(/started `understudy serve`/g)?.length, 1);
    const log = await readFile(join(state, 'serve.log'), 'utf8');
    assert.equal(log.match(/"msg":"serving"/g)?.length, 1);
    assert.doesNotMatch(log, /LOCKED/);
  });
}

test('a command that is killed while it starts the service leaves the turn to the next', async (t) => {
  const { state, start, run } = await machine(t);
  const first = start('boot a@latest', 'slow-open');
  await untilThere(join(state, 'lock'));
  first.kill('SIGKILL');
  await first.result;
  while ((await findService(state)) === undefined) await delay(10);
  assert.equal((await run('boot b@latest --json')).exitCode, 0);
});

test('boot without a state directory says so', async (t) => {
  const { state, run } = await machine(t);
  const { exitCode, stderr } = await run(`boot web@latest --state ${state}/missing`);
  assert.equal(exitCode, EXIT_CODES.notFound);
  assert.match(stderr, /^error REPOSITORY_NOT_FOUND: there is no state directory /);
});

test('when the service cannot start, boot ends with the error that it ended with', async (t) => {
  const { state, run } = await machine(t);
  const { exitCode, stderr, stdout } = await run('boot web@latest', 'fail-open');
  assert.deepEqual([exitCode, stdout], [EXIT_CODES.corrupt, '']);
  assert.match(stderr, /^error CATALOG_DAMAGED: the service could not be started: the catalog is damaged\nhint: /);
  assert.equal(await findService(state), undefined);
});

test('booted and stop start the service when a machine needs it, and not otherwise', async (t) => {
  const { state, run } = await machine(t);
  assert.equal((await run('booted', 'no-booted')).exitCode, 0);
  assert.equal((await run('stop x', 'no-booted')).exitCode, 0);
  assert.equal(await findService(state), undefined);
  const { stdout, stderr, exitCode } = await run('booted --json');
  assert.equal(exitCode, 0);
  assert.deepEqual(JSON.parse(stdout), [fakeResults.booted]);
  assert.match(stderr, /started `understudy serve`/);
});

test('a command on a state directory that another command holds names it', async (t) => {
  const { start, run } = await machine(t);
  const holder = start('export web@latest');
  await holder.until(({ stderr }) => stderr.includes('serving vda'));
  const { exitCode, stdout } = await run('points --json');
  const { error } = JSON.parse(stdout) as {
    error: { code: string; details: Record<string, unknown>; message: string };
  };
  assert.deepEqual([exitCode, error.code, error.details['pid']], [EXIT_CODES.busy, 'LOCKED', holder.pid]);
  assert.match(error.message, /^process \d+ \(.*export web@latest\) is using /);
  holder.kill('SIGINT');
  assert.equal((await holder.result).exitCode, 0);
  assert.equal((await run('points')).exitCode, 0);
});

test('boot waits for nobody who keeps the state directory', async (t) => {
  const { start, run } = await machine(t);
  const holder = start('export web@latest');
  await holder.until(({ stderr }) => stderr.includes('serving vda'));
  const { exitCode, stderr } = await run('boot web@latest');
  assert.equal(exitCode, EXIT_CODES.busy);
  assert.match(stderr, /^error LOCKED: the service could not be started: process \d+ /);
});

test('serve says when it is ready, ends with 0 on SIGTERM, and leaves no socket', async (t) => {
  const { state, start } = await machine(t);
  const service = start('serve');
  await service.until(({ stdout }) => stdout.includes('\n'));
  assert.equal(service.stdout, `serving ${state} at ${controlSocketPath(state)} (process ${service.pid})\n`);
  service.kill('SIGTERM');
  const { exitCode, stderr } = await service.result;
  assert.equal(exitCode, 0);
  for (const line of stderr.trimEnd().split('\n')) assert.equal(typeof JSON.parse(line), 'object');
  await assert.rejects(stat(controlSocketPath(state)), { code: 'ENOENT' });
});

test('serve --json prints one document; --log takes the log', async (t) => {
  const { state, start } = await machine(t);
  const service = start(`serve --json --log ${state}/own.log`);
  await service.until(({ stdout }) => stdout.includes('\n}\n'));
  const expected = { pid: service.pid, state, socket: controlSocketPath(state) };
  assert.deepEqual(JSON.parse(service.stdout), expected);
  service.kill('SIGINT');
  assert.deepEqual([(await service.result).exitCode, service.stderr], [0, '']);
  assert.match(await readFile(`${state}/own.log`, 'utf8'), /"msg":"stopped"/);
});

test('a second service on the state directory is refused and names the first', async (t) => {
  const { start, run } = await machine(t);
  const first = start('serve');
  await first.until(({ stdout }) => stdout.includes('\n'));
  const { exitCode, stderr, stdout } = await run('serve');
  assert.deepEqual([exitCode, stdout], [EXIT_CODES.busy, '']);
  assert.match(stderr, new RegExp(`^error LOCKED: .*process ${first.pid}\n`, 'm'));
});

test('a stopping service aborts what runs: its client ends with 130, the service with 0', async (t) => {
  const { start } = await machine(t);
  const service = start('serve', 'slow-backup');
  await service.until(({ stdout }) => stdout.includes('\n'));
  const backup = start('backup web');
  await backup.until(({ stderr }) => stderr.includes('note: the backup has begun'));
  service.kill('SIGTERM');
  assert.equal((await backup.result).exitCode, EXIT_CODES.interrupted);
  assert.match(backup.stderr, /error ABORTED: /);
  assert.equal((await service.result).exitCode, 0);
});

test('when a command is interrupted, the service cancels its run and serves on', async (t) => {
  const { state, start } = await machine(t);
  const service = start('serve', 'slow-backup');
  await service.until(({ stdout }) => stdout.includes('\n'));
  const backup = start('backup web');
  await backup.until(({ stderr }) => stderr.includes('note: the backup has begun'));
  backup.kill('SIGINT');
  assert.equal((await backup.result).exitCode, EXIT_CODES.interrupted);
  await service.until(({ stderr }) => stderr.includes('"outcome":"ABORTED"'));
  assert.deepEqual((await findService(state))?.running, []);
});

test('when a command is killed, its run goes on, is shown, and can be cancelled', async (t) => {
  const { state, start, run } = await machine(t);
  const service = start('serve', 'slow-backup');
  await service.until(({ stdout }) => stdout.includes('\n'));
  const backup = start('backup web');
  await backup.until(({ stderr }) => stderr.includes('note: the backup has begun'));
  backup.kill('SIGKILL');
  await backup.result;
  assert.deepEqual((await findService(state))?.running, ['backup']);
  const [listed] = JSON.parse((await run('runs list --json')).stdout) as { id: string; state: string }[];
  assert.equal(listed?.state, 'running');
  assert.match((await run(`runs show ${listed?.id}`)).stdout, /the backup has begun/);
  const cancelled = await run(`runs cancel ${listed?.id} --json`);
  assert.equal((JSON.parse(cancelled.stdout) as { state: string }).state, 'cancelled');
  assert.deepEqual((await findService(state))?.running, []);
});

test('an interrupted command without a service ends with 130', async (t) => {
  const { start } = await machine(t);
  const backup = start('backup web --json', 'slow-backup');
  await backup.until(({ stderr }) => stderr.includes('note: the backup has begun'));
  backup.kill('SIGTERM');
  const { exitCode, stdout } = await backup.result;
  assert.equal(exitCode, EXIT_CODES.interrupted);
  assert.equal((JSON.parse(stdout) as { error: { code: string } }).error.code, 'ABORTED');
});

test('after a service was killed, commands and a new service work', async (t) => {
  const { state, start, run } = await machine(t);
  const first = start('serve');
  await first.until(({ stdout }) => stdout.includes('\n'));
  first.kill('SIGKILL');
  await first.result;
  assert.equal((await stat(controlSocketPath(state))).isSocket(), true);
  assert.equal((await run('points')).exitCode, 0);
  const second = start('serve');
  await second.until(({ stdout }) => stdout.includes('\n'));
  assert.equal((await findService(state))?.pid, second.pid);
});

test('an export through the service ends with its command, and with the service', async (t) => {
  const { start } = await machine(t);
  const service = start('serve');
  await service.until(({ stdout }) => stdout.includes('\n'));
  const killed = start('export web@latest');
  await killed.until(({ stdout }) => stdout.includes('nbd+unix'));
  killed.kill('SIGKILL');
  await service.until(({ stderr }) => /"operation":"export","export":".*"outcome":"ok"/.test(stderr));

  const interrupted = start('export web@latest');
  await interrupted.until(({ stderr }) => stderr.includes('serving vda'));
  interrupted.kill('SIGINT');
  assert.equal((await interrupted.result).exitCode, 0);

  const left = start('export web@latest');
  await left.until(({ stderr }) => stderr.includes('serving vda'));
  service.kill('SIGKILL');
  const { exitCode, stderr } = await left.result;
  assert.equal(exitCode, EXIT_CODES.unreachable);
  assert.match(stderr, /error SERVICE_UNREACHABLE: /);
});

test('a service that dies in the middle of a backup is an error of its command', async (t) => {
  const { start } = await machine(t);
  const service = start('serve', 'slow-backup');
  await service.until(({ stdout }) => stdout.includes('\n'));
  const backup = start('backup web');
  await backup.until(({ stderr }) => stderr.includes('note: the backup has begun'));
  service.kill('SIGKILL');
  const { exitCode, stderr } = await backup.result;
  assert.equal(exitCode, EXIT_CODES.unreachable);
  assert.match(stderr, /error SERVICE_UNREACHABLE: the service ended during backup\n/);
});

test('serve --stop ends the service in order, waits for its end, and says when there is none', async (t) => {
  const { state, start, run } = await machine(t);
  const none = await run('serve --stop --json');
  assert.deepEqual([none.exitCode, JSON.parse(none.stdout)], [0, { stopped: false, pid: null, state }]);
  assert.equal((await run('serve --stop')).stdout, `No service runs on ${state}.\n`);
  const service = start('serve --json', 'slow-backup');
  await service.until(({ stdout }) => stdout.includes('\n}\n'));
  const backup = start('backup web --json');
  await backup.until(({ stderr }) => stderr.includes('the backup has begun'));
  const stopped = await run('serve --stop --json');
  assert.deepEqual([stopped.exitCode, JSON.parse(stopped.stdout)], [0, { stopped: true, pid: service.pid, state }]);
  assert.equal((await backup.result).exitCode, EXIT_CODES.interrupted);
  assert.equal((await service.result).exitCode, 0);
  assert.equal(await findService(state), undefined);
});
