// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { pino } from 'pino';
import { localPrincipal } from '../../../appliance/access/principal.ts';
import { RemoteEndpoint } from '../../../appliance/api/client/remote-endpoint.ts';
import { connectServer } from '../../../appliance/api/connect-appliance.ts';
import type { OperationContext } from '../../../appliance/api/operations.ts';
import type { Listener } from '../../../appliance/api/server/network.ts';
import { CertificateSource } from '../../../appliance/api/server/tls/certificate-source.ts';
import { checkPair } from '../../../appliance/api/server/tls/key-pair.ts';
import { selfSignedPair } from '../../../appliance/api/server/tls/self-signed.ts';
import { systemClock } from '../../../appliance/core/clock.ts';
import { type ApiService, apiService, ask, TOKEN, tokenAccess, user } from '../../support/api-service.ts';
import { fakeResults } from '../../support/fake-results.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';

const test = suite('the service on the network');

const CONTEXT: OperationContext = {
  principal: localPrincipal(),
  signal: new AbortController().signal,
  onProgress: () => undefined,
  onNotice: () => undefined,
};

const YEAR_MS = 365 * 24 * 3600 * 1000;

async function secured(
  t: TestContext,
  role: 'admin' | 'viewer' = 'admin',
): Promise<ApiService & { readonly listener: Listener }> {
  const service = await apiService(t);
  const [listener] = await service.server.listenOnNetwork(
    { https: '127.0.0.1:0' },
    { access: tokenAccess(user(role)) },
  );
  assert.ok(listener !== undefined);
  return { ...service, listener };
}

test('operations, runs and exports work over HTTPS with a token and the fingerprint', async (t) => {
  const { listener, fake } = await secured(t);
  const address = { url: listener.url, token: TOKEN, fingerprint: listener.fingerprint ?? '', ca: undefined };
  const notices: string[] = [];
  const connection = t.use(await connectServer(address, (sentence) => notices.push(sentence)));
  assert.deepEqual(notices, []);
  assert.deepEqual(await connection.appliance.status({}, CONTEXT), fakeResults.status);
  assert.deepEqual(await connection.appliance.points({}, CONTEXT), fakeResults.points);
  assert.deepEqual(await connection.appliance.backup({ target: 'web' }, CONTEXT), fakeResults.backup);
  const { id } = await connection.appliance.export({ point: 'x' }, CONTEXT);
  assert.equal(fake.exports.size, 1);
  await connection.appliance.unexport({ id }, CONTEXT);
  await connection.exportEnded(id);
  assert.equal(fake.exports.size, 0);
  assert.equal(fake.calls[0]?.context.principal.name, 'admin');
});

test('a request without a token, or with a wrong one, is refused before anything is looked at', async (t) => {
  const { listener, fake } = await secured(t);
  const fingerprint = listener.fingerprint ?? '';
  for (const token of [undefined, 'wrong']) {
    const endpoint = new RemoteEndpoint({ url: listener.url, token, fingerprint });
    for (const [method, path] of [
      ['GET', '/api/v1/points'],
      ['POST', '/api/v1/backups'],
      ['GET', '/api/v1/events'],
      ['GET', '/api/v1/service'],
    ] as const) {
      const { status, value, headers } = await ask(endpoint, method, path);
      assert.deepEqual([status, (value as { code: string }).code], [401, 'UNAUTHENTICATED']);
      assert.equal(headers['www-authenticate'], 'Bearer');
    }
    await rejectsWith(
      connectServer({ url: listener.url, token, fingerprint, ca: undefined }, () => undefined),
      'UNAUTHENTICATED',
    );
  }
  assert.equal(fake.calls.length, 0);
});

test('a role that is too low is refused, and nobody is asked to stop from there', async (t) => {
  const { listener, fake } = await secured(t, 'viewer');
  const endpoint = new RemoteEndpoint({ url: listener.url, token: TOKEN, fingerprint: listener.fingerprint ?? '' });
  const refused = await ask(endpoint, 'POST', '/api/v1/backups', { body: { target: 'web' } });
  assert.deepEqual([refused.status, (refused.value as { code: string }).code], [403, 'FORBIDDEN']);
  assert.equal((await ask(endpoint, 'POST', '/api/v1/service/stop', { body: {} })).status, 404);
  assert.equal(fake.calls.length, 0);
  assert.equal((await ask(endpoint, 'GET', '/api/v1/points')).status, 200);
});

test('a certificate that is not trusted gets no request and no token', async (t) => {
  const { listener } = await secured(t);
  const url = listener.url;
  const other = 'AB'.repeat(32);
  for (const fingerprint of [undefined, other]) {
    const connecting = connectServer({ url, token: TOKEN, fingerprint, ca: undefined }, () => undefined);
    await assert.rejects(connecting, (error: Error & { readonly code?: string }) => {
      assert.equal(error.code, 'CERTIFICATE_UNTRUSTED');
      assert.ok(error.message.includes(listener.fingerprint ?? ''), error.message);
      return true;
    });
  }
});

test('the certificate itself can be what is trusted, and then the name counts, too', async (t) => {
  const { listener, directory } = await secured(t);
  const pem = await readFile(join(directory, 'tls', 'self-signed.pem'), 'utf8');
  const ca = pem.replace(/-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----\n/, '');
  const named = listener.url.replace('127.0.0.1', 'localhost');
  for (const url of [listener.url, named]) {
    t.use(await connectServer({ url, token: TOKEN, fingerprint: undefined, ca }, () => undefined));
  }
  const foreign = listener.url.replace('127.0.0.1', '127.0.0.2');
  await rejectsWith(
    connectServer({ url: foreign, token: TOKEN, fingerprint: undefined, ca }, () => undefined),
    'SERVICE_UNREACHABLE',
  );
});

test('wrong addresses of a service are refused before anything is sent', () => {
  for (const url of [
    'http://example.org:8443',
    'ftp://localhost',
    'localhost:8443',
    'https://u:p@h',
    'https://h/path',
    '',
  ]) {
    assert.throws(() => new RemoteEndpoint({ url }), { code: 'BAD_ARGUMENT' }, url);
  }
  for (const fingerprint of ['', 'AB:CD', 'x'.repeat(64)]) {
    assert.throws(() => new RemoteEndpoint({ url: 'https://h', fingerprint }), { code: 'BAD_ARGUMENT' });
  }
});

test('a service that is not there is SERVICE_UNREACHABLE', async (t) => {
  const server = createServer();
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise<void>((resolve) => void server.close(() => resolve()));
  const address = { url: `https://127.0.0.1:${port}`, token: TOKEN, fingerprint: undefined, ca: undefined };
  await rejectsWith(
    connectServer(address, () => undefined),
    'SERVICE_UNREACHABLE',
  );
  t.use({ close: () => undefined });
});

test('without encryption it listens on this machine only, answers to its names only, and asks for a token', async (t) => {
  const { server } = await apiService(t);
  const access = tokenAccess(user('admin'));
  for (const http of ['0.0.0.0:0', '[::]:0', '192.0.2.1:80', 'example.org:80']) {
    await rejectsWith(server.listenOnNetwork({ http }, { access }), 'BAD_ARGUMENT');
  }
  const [listener] = await server.listenOnNetwork({ http: '127.0.0.1:0' }, { access });
  assert.ok(listener !== undefined);
  const endpoint = new RemoteEndpoint({ url: listener.url, token: TOKEN });
  assert.equal((await ask(endpoint, 'GET', '/api/v1/points')).status, 200);
  assert.equal((await ask(new RemoteEndpoint({ url: listener.url }), 'GET', '/api/v1/points')).status, 401);
  for (const host of ['evil.example', 'localhost.evil.example', 'evil.example:80']) {
    assert.equal((await ask(endpoint, 'GET', '/api/v1/points', { headers: { host } })).status, 403, host);
  }
  for (const host of ['localhost', 'localhost:1', '127.0.0.1', '[::1]:8080']) {
    assert.equal((await ask(endpoint, 'GET', '/api/v1/points', { headers: { host } })).status, 200, host);
  }
});

test('answers carry strict security headers and allow no other origin', async (t) => {
  const { listener } = await secured(t);
  const endpoint = new RemoteEndpoint({ url: listener.url, token: TOKEN, fingerprint: listener.fingerprint ?? '' });
  for (const [path, status] of [
    ['/api/v1/points', 200],
    ['/api/v1/nothing', 404],
    ['/health/live', 200],
  ] as const) {
    const { headers, ...answer } = await ask(endpoint, 'GET', path, { headers: { origin: 'https://evil.example' } });
    assert.equal(answer.status, status);
    assert.match(String(headers['content-security-policy']), /default-src 'none';.*frame-ancestors 'none'/);
    assert.doesNotMatch(String(headers['content-security-policy']), /unsafe|\*/);
    assert.match(String(headers['strict-transport-security']), /max-age=\d{8}/);
    assert.equal(headers['x-content-type-options'], 'nosniff');
    assert.equal(headers['cache-control'], 'no-store');
    assert.equal(headers['access-control-allow-origin'], undefined);
  }
  const page = await ask(endpoint, 'GET', '/api/v1/docs');
  assert.equal(page.status, 200);
  assert.doesNotMatch(String(page.headers['content-security-policy']), /script-src[^;]*unsafe/);
});

test('readiness tells its reasons only to those who are known', async (t) => {
  const { listener, fake } = await secured(t);
  const fingerprint = listener.fingerprint ?? '';
  fake.problems = ['the repository /mnt/backup is not there'];
  const known = await ask(new RemoteEndpoint({ url: listener.url, token: TOKEN, fingerprint }), 'GET', '/health/ready');
  assert.deepEqual([known.status, known.value], [503, { status: 'not ready', problems: fake.problems }]);
  const unknown = await ask(new RemoteEndpoint({ url: listener.url, fingerprint }), 'GET', '/health/ready');
  assert.deepEqual([unknown.status, unknown.value], [503, { status: 'not ready' }]);
  fake.problems = [];
  assert.equal((await ask(new RemoteEndpoint({ url: listener.url, fingerprint }), 'GET', '/health/ready')).status, 200);
});

test('the certificate stays over restarts, is for the owner only, and is made anew before its end', async (t) => {
  const directory = join(await t.tempDir(), 'tls');
  const nowMs = systemClock.nowMs();
  const first = await selfSignedPair(directory, nowMs);
  const again = await selfSignedPair(directory, nowMs + 9 * YEAR_MS);
  assert.deepEqual([first.isNew, again.isNew], [true, false]);
  assert.equal(again.pair.fingerprint, first.pair.fingerprint);
  assert.equal((await stat(join(directory, 'self-signed.pem'))).mode & 0o777, 0o600);
  const later = await selfSignedPair(directory, nowMs + 9.9 * YEAR_MS);
  assert.equal(later.isNew, true);
  assert.notEqual(later.pair.fingerprint, first.pair.fingerprint);
  await writeFile(join(directory, 'self-signed.pem'), 'cut');
  assert.equal((await selfSignedPair(directory, nowMs)).isNew, true);
});

test("the operator's own certificate is used when its files change, and a broken one is not", async (t) => {
  const directory = await t.tempDir();
  const nowMs = systemClock.nowMs();
  const pairs = [
    (await selfSignedPair(join(directory, 'a'), nowMs)).pair,
    (await selfSignedPair(join(directory, 'b'), nowMs)).pair,
  ] as const;
  const files = { certificate: join(directory, 'cert.pem'), key: join(directory, 'key.pem') };
  const put = async (certificate: string, key: string): Promise<void> => {
    await writeFile(files.certificate, certificate);
    await writeFile(files.key, key);
  };
  const lines: string[] = [];
  const logger = pino({ level: 'info' }, { write: (line) => void lines.push(line) });
  await put(pairs[0].certificate, pairs[1].key);
  const options = { stateDirectory: directory, files, clock: systemClock, logger };
  await rejectsWith(CertificateSource.open(options), 'CERTIFICATE_INVALID');
  await put(pairs[0].certificate, pairs[0].key);
  const source = t.use(await CertificateSource.open(options));
  const served: string[] = [];
  source.onChange(({ fingerprint }) => served.push(fingerprint));
  await put(pairs[1].certificate, pairs[0].key);
  await source.look();
  await source.look();
  assert.deepEqual([source.current.fingerprint, served], [pairs[0].fingerprint, []]);
  assert.equal(lines.filter((line) => line.includes('is not used')).length, 1);
  await put(pairs[1].certificate, pairs[1].key);
  await source.look();
  assert.deepEqual([source.current.fingerprint, served], [pairs[1].fingerprint, [pairs[1].fingerprint]]);
  assert.throws(() => checkPair(pairs[1], nowMs + 11 * YEAR_MS), { code: 'CERTIFICATE_INVALID' });
});

test('a port that is taken is LISTEN_FAILED', async (t) => {
  const { server, listener } = await secured(t);
  const https = listener.url.replace('https://', '');
  await rejectsWith(server.listenOnNetwork({ https }, { access: tokenAccess(user('admin')) }), 'LISTEN_FAILED');
});

test('plain text and half a handshake do not disturb the service', async (t) => {
  const { listener } = await secured(t);
  const port = Number(new URL(listener.url).port);
  for (const bytes of ['GET / HTTP/1.1\r\n\r\n', '\x16\x03\x01\x02\x00\x01', '']) {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => undefined);
    await new Promise<void>((resolve) => void socket.once('connect', () => socket.end(bytes, () => resolve())));
    socket.destroy();
  }
  const endpoint = new RemoteEndpoint({ url: listener.url, token: TOKEN, fingerprint: listener.fingerprint ?? '' });
  assert.equal((await ask(endpoint, 'GET', '/api/v1/points')).status, 200);
});
