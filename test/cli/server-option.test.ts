// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { TOKEN } from '../support/api-service.ts';
import { CliTest } from '../support/cli-harness.ts';
import { fakeResults } from '../support/fake-results.ts';
import { LiveProcess } from '../support/live-process.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('commands through --server', { timeoutMs: 60_000 });
const SCRIPT: string = new URL('../support/fake-understudy.ts', import.meta.url).pathname;

interface Served {
  readonly state: string;
  readonly service: LiveProcess;
  readonly url: string;
  readonly fingerprint: string;
}

async function serve(t: TestContext, behaviour = ''): Promise<Served> {
  const state = await t.tempDir();
  const env = { ...process.env, UNDERSTUDY_STATE: state, FAKE_BEHAVIOUR: behaviour, NO_COLOR: '1' };
  const command = [process.execPath, SCRIPT, 'serve', '--listen', '127.0.0.1:0', '--json'] as const;
  const service = t.use(new LiveProcess([...command], env));
  await service.until(({ stdout }) => stdout.includes('\n}\n'));
  const { listeners } = JSON.parse(service.stdout) as {
    readonly listeners: readonly { readonly url: string; readonly fingerprint: string }[];
  };
  const [listener] = listeners;
  assert.ok(listener !== undefined);
  return { state, service, ...listener };
}

/** A command in this process, which has neither a state directory nor an appliance of its own. */
function command(env: Readonly<Record<string, string>>): CliTest {
  return new CliTest({
    env,
    dependencies: { openAppliance: () => Promise.reject(new Error('it does not open an appliance here')) },
  });
}

test('every way to give address, token and fingerprint works, and nothing is opened here', async (t) => {
  const { url, fingerprint } = await serve(t);
  const file = join(await t.tempDir(), 'token');
  await writeFile(file, `${TOKEN}\n`);
  const all = { UNDERSTUDY_SERVER: url, UNDERSTUDY_TOKEN: TOKEN, UNDERSTUDY_FINGERPRINT: fingerprint };
  const options = ['--server', url, '--fingerprint', fingerprint];
  for (const [env, argv] of [
    [all, ['points', '--json']],
    [{}, ['points', '--json', ...options, '--token', TOKEN]],
    [{}, [...options, '--token-file', file, 'points', '--json']],
    [{ UNDERSTUDY_TOKEN_FILE: file }, ['points', '--json', ...options]],
  ] as const) {
    const { exitCode, stdout, stderr } = await command(env).run(...argv);
    assert.deepEqual([exitCode, JSON.parse(stdout), stderr], [0, JSON.parse(JSON.stringify(fakeResults.points)), '']);
  }
});

test('what is wrong with token, certificate or address has a code of its own', async (t) => {
  const { url, fingerprint } = await serve(t);
  const codeOf = async (...argv: readonly string[]): Promise<readonly [number, string]> => {
    const { exitCode, stdout } = await command({}).run('points', '--json', ...argv);
    return [exitCode, (JSON.parse(stdout) as { error: { code: string } }).error.code];
  };
  const known = ['--server', url, '--fingerprint', fingerprint];
  assert.deepEqual(await codeOf(...known, '--token', 'wrong'), [EXIT_CODES.denied, 'UNAUTHENTICATED']);
  assert.deepEqual(await codeOf(...known), [EXIT_CODES.denied, 'UNAUTHENTICATED']);
  const untrusted = [EXIT_CODES.unreachable, 'CERTIFICATE_UNTRUSTED'];
  assert.deepEqual(await codeOf('--server', url, '--token', TOKEN), untrusted);
  assert.deepEqual(await codeOf('--server', url, '--token', TOKEN, '--fingerprint', '00'.repeat(32)), untrusted);
  for (const wrong of ['--server=http://example.org', '--token=x', '--fingerprint=00', `--ca=${SCRIPT}`]) {
    const address = wrong.startsWith('--server') || wrong.startsWith('--token') ? [] : ['--server', url];
    assert.deepEqual(await codeOf(...address, wrong), [EXIT_CODES.usage, 'BAD_ARGUMENT'], wrong);
  }
});

test('an interrupted command cancels its run there; init and serve are for the machine itself', async (t) => {
  const { url, fingerprint, service } = await serve(t, 'slow-backup');
  const env = { UNDERSTUDY_SERVER: url, UNDERSTUDY_TOKEN: TOKEN, UNDERSTUDY_FINGERPRINT: fingerprint };
  const backup = command(env);
  const running = backup.run('backup', 'web');
  await backup.until(() => backup.stderr.includes('note: the backup has begun'));
  backup.signal('SIGINT');
  assert.equal((await running).exitCode, EXIT_CODES.interrupted);
  await service.until(({ stderr }) => stderr.includes('"outcome":"ABORTED"'));
  for (const argv of [['init'], ['serve'], ['restore', 'web@latest', '--to', 'relative.raw']]) {
    assert.equal((await command(env).run(...argv)).exitCode, EXIT_CODES.usage, argv.join(' '));
  }
});
