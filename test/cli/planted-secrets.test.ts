// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { gunzipSync } from 'node:zlib';
import { controlSocketPath } from '../../appliance/api/control-socket.ts';
import { API_ROOT, isOperationName, OPERATION_ROUTES } from '../../appliance/api/operation-routes.ts';
import { ApplianceProcess } from '../support/appliance-process.ts';
import { suite } from '../support/suite.ts';

const test = suite('planted secrets', { timeoutMs: 60_000 });

/** Each is given to the appliance somewhere, and must be found nowhere. */
const PLANTED = {
  password: 'plantedPasswordOfRack1',
  changed: 'plantedPasswordAfterChange',
  refused: 'plantedPasswordOfRefusedRequest',
  unknown: 'plantedPasswordOfUnknownMember',
} as const;

test('no secret that was given to commands and the service comes out of logs, replies, audit log or files', async (t) => {
  const appliance = new ApplianceProcess(t, await t.tempDir());
  const { recoveryKey } = await appliance.ask<{ readonly recoveryKey: string }>('init');
  const seen: string[] = [];
  const passwordFile = join(await t.tempDir(), 'password');
  await writeFile(passwordFile, `${PLANTED.password}\n`);
  // In a process of its own, and then through the service.
  const words = ['qemu+tcp://127.0.0.1:1/system', '--user', 'ada', '--password-file', passwordFile];
  const added = await appliance.run('hypervisor', 'add', 'rack1', ...words);
  assert.equal(added.exitCode, 0, added.stderr);
  seen.push(added.stdout, added.stderr);
  const service = appliance.start('serve', '--json', '--log-level', 'debug');
  await service.until(({ stdout }) => stdout.includes('\n}\n'));
  const socket = controlSocketPath(appliance.state);
  const say = async (method: string, path: string, body?: object): Promise<void> => {
    seen.push(await ask(socket, { method, path, ...(body === undefined ? {} : { body }) }));
  };
  await say('PATCH', '/hypervisors/rack1', { username: 'ada', password: PLANTED.changed });
  await say('POST', '/hypervisors', { name: 'rack1', uri: 'qemu+tcp://x/', username: 'a', password: PLANTED.refused });
  await say('POST', '/hypervisors', { name: 'x', uri: 'qemu:///system', passwort: PLANTED.unknown });
  await say('POST', '/hypervisors/rack1/test', {});
  for (const name of Object.keys(OPERATION_ROUTES).filter(isOperationName)) {
    const [method = '', path = ''] = OPERATION_ROUTES[name].http.split(' ');
    if (method === 'GET') await say(method, path.replaceAll(/:\w+/g, 'rack1'));
  }
  service.kill('SIGTERM');
  const { stdout, stderr } = await service.result;
  seen.push(stdout, stderr);

  const kept = await contents(appliance.state);
  assert.ok(kept.size > 5);
  for (const secret of [...Object.values(PLANTED), recoveryKey]) {
    for (const [index, output] of seen.entries()) assert.ok(!output.includes(secret), `output ${index}: ${output}`);
    for (const [path, content] of kept) assert.ok(!content.includes(secret), path);
  }
  // The same search finds what is no secret.
  assert.ok(seen.some((output) => output.includes('"username": "ada"') || output.includes('"username":"ada"')));
  assert.ok([...kept.values()].some((content) => content.includes('rack1')));
});

function ask(
  socketPath: string,
  { method, path, body }: { readonly method: string; readonly path: string; readonly body?: object },
): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const headers = { 'content-type': 'application/json' };
  const sent = request({ socketPath, method, path: `${API_ROOT}${path}`, headers }, (reply) => {
    text(reply).then(resolve, reject);
  });
  sent.on('error', reject);
  sent.end(body === undefined ? undefined : JSON.stringify(body));
  return promise;
}

/** Every file below a directory, archived segments unpacked. */
async function contents(directory: string): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const bytes = await readFile(path);
    found.set(path, (path.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString('latin1'));
  }
  return found;
}
