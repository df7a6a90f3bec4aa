// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { hasCode } from '../../appliance/core/errors.ts';
import { CMD, OPT, REP } from '../../appliance/nbd/protocol.ts';
import { NbdServer, type ServerEvent } from '../../appliance/nbd/server/nbd-server.ts';
import type { ServerTls } from '../../appliance/nbd/server/server-tls.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { ServerMemoryDevice } from './server-memory-device.ts';
import { makeTlsKeys, type TlsKeys } from './server-tls-keys.ts';
import { infoData, metaData, optionBytes, WireClient } from './server-wire.ts';

const test = suite('nbd server, TLS', { requires: ['certtool'] });
const run = promisify(execFile);
const SIZE = 1_048_576;

interface Running {
  readonly server: NbdServer;
  readonly keys: TlsKeys;
  readonly events: ServerEvent[];
}

async function start(
  t: TestContext,
  options: { needsClientCertificate?: boolean; isTcp?: boolean } = {},
): Promise<Running> {
  const folder = await t.tempDir();
  const keys = await makeTlsKeys(`${folder}/pki`);
  const tls: ServerTls = {
    kind: 'x509',
    key: keys.serverKey,
    certificate: keys.serverCertificate,
    ...(options.needsClientCertificate === true ? { clientAuthority: keys.authority } : {}),
  };
  const events: ServerEvent[] = [];
  const listen =
    options.isTcp === true
      ? ({ kind: 'tcp', host: 'localhost', port: 0 } as const)
      : ({ kind: 'unix', path: `${folder}/s` } as const);
  const server = t.use(await NbdServer.listen({ listen, tls, onEvent: (event) => events.push(event) }));
  server.addExport({ name: 'exp', device: new ServerMemoryDevice({ sizeBytes: SIZE }) });
  return { server, keys, events };
}

async function greeted(t: TestContext, running: Running): Promise<WireClient> {
  return t.use(await WireClient.greeted(running.server.address));
}

async function secured(t: TestContext, running: Running): Promise<WireClient> {
  const client = await greeted(t, running);
  assert.equal(await client.optionType(OPT.STARTTLS), REP.ACK);
  await client.secure({ ca: running.keys.authority, servername: 'localhost' });
  return client;
}

test('before TLS every option but ABORT is refused with TLS_REQD, unknown and oversize ones too', async (t) => {
  const client = await greeted(t, await start(t));
  for (const option of [OPT.LIST, OPT.INFO, OPT.GO, OPT.STRUCTURED_REPLY, OPT.EXTENDED_HEADERS, OPT.SET_META_CONTEXT]) {
    assert.equal(await client.optionType(option, infoData('exp')), REP.ERR_TLS_REQD);
  }
  for (const option of [0, 4, 12, 0xffffffff]) assert.equal(await client.optionType(option), REP.ERR_TLS_REQD);
  assert.equal(await client.optionType(99, Buffer.alloc(100_000)), REP.ERR_TLS_REQD);
  assert.equal(await client.optionType(OPT.ABORT), REP.ACK);
});

test('EXPORT_NAME before TLS ends the connection', async (t) => {
  const client = await greeted(t, await start(t));
  client.sendOption(OPT.EXPORT_NAME, Buffer.from('exp'));
  assert.equal((await client.readToEnd()).length, 0);
});

test('STARTTLS takes no data and happens once; TLS_REQD never comes after it', async (t) => {
  const running = await start(t);
  const client = await greeted(t, running);
  assert.equal(await client.optionType(OPT.STARTTLS, Buffer.from('x')), REP.ERR_INVALID);
  assert.equal(await client.optionType(OPT.STARTTLS), REP.ACK);
  await client.secure({ ca: running.keys.authority, servername: 'localhost' });
  assert.equal(await client.optionType(OPT.STARTTLS), REP.ERR_INVALID);
  assert.equal(await client.optionType(99), REP.ERR_UNSUP);
  assert.equal(await client.optionType(OPT.GO, infoData('exp')), REP.ACK);
  client.request({ type: CMD.WRITE, cookie: 1n, offset: 3, length: 100_000, data: Buffer.alloc(100_000, 'tls') });
  assert.equal(await client.readSimple(1n), 0);
  client.request({ type: CMD.READ, cookie: 2n, length: 300_000 });
  assert.equal(await client.readSimple(2n), 0);
  assert.equal((await client.read(300_000)).toString('latin1', 0, 9), '\0\0\0tlstls');
  client.request({ type: CMD.DISC });
  assert.equal((await client.readToEnd()).length, 0);
});

test('what was sent in plain text together with STARTTLS is never looked at', async (t) => {
  const running = await start(t);
  const client = await greeted(t, running);
  client.send(optionBytes(OPT.STARTTLS), optionBytes(OPT.STRUCTURED_REPLY), optionBytes(OPT.LIST));
  assert.equal((await client.readOptionReply()).type, REP.ACK);
  await client.secure({ ca: running.keys.authority, servername: 'localhost' });
  assert.equal(await client.optionType(OPT.SET_META_CONTEXT, metaData('exp', [])), REP.ERR_INVALID);
  assert.equal(await client.optionType(OPT.STRUCTURED_REPLY), REP.ACK);
});

test('plain text instead of a TLS handshake ends the connection', async (t) => {
  const running = await start(t);
  const client = await greeted(t, running);
  await client.option(OPT.STARTTLS);
  client.sendOption(OPT.LIST);
  const rest = await client.readToEnd();
  assert.ok(!rest.includes('exp'));
});

test('TLS below 1.2 is refused', async (t) => {
  const running = await start(t);
  const client = await greeted(t, running);
  await client.option(OPT.STARTTLS);
  const old = { minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' } as const;
  await assert.rejects(client.secure({ ca: running.keys.authority, servername: 'localhost', ...old }));
});

test('a client without the certificate that is asked for is refused, one with it is served', async (t) => {
  const running = await start(t, { needsClientCertificate: true });
  const { keys } = running;
  const bare = await greeted(t, running);
  await bare.option(OPT.STARTTLS);
  await bare.secure({ ca: keys.authority, servername: 'localhost' }).then(
    () => bare.sendOption(OPT.LIST),
    () => undefined,
  );
  assert.equal((await bare.readToEnd()).length, 0);
  const proper = await greeted(t, running);
  await proper.option(OPT.STARTTLS);
  await proper.secure({
    ca: keys.authority,
    servername: 'localhost',
    key: keys.clientKey,
    cert: keys.clientCertificate,
  });
  assert.equal(await proper.optionType(OPT.GO, infoData('exp')), REP.ACK);
});

test('a client that dies in the TLS handshake leaves nothing behind', async (t) => {
  const running = await start(t);
  const client = await greeted(t, running);
  await client.option(OPT.STARTTLS);
  client.send(Buffer.from('160301', 'hex'));
  client.close();
  while (!running.events.some((event) => event.kind === 'closed')) await new Promise((done) => setImmediate(done));
  const next = await secured(t, running);
  assert.equal(await next.optionType(OPT.GO, infoData('exp')), REP.ACK);
});

test('a server does not start with keys that do not fit', async (t) => {
  const folder = await t.tempDir();
  const tls: ServerTls = { kind: 'x509', key: 'nonsense', certificate: 'nonsense' };
  await assert.rejects(NbdServer.listen({ listen: { kind: 'unix', path: `${folder}/s` }, tls }), (error) =>
    hasCode(error, 'NBD_TLS_FAILED'),
  );
});

test(
  'nbdinfo and nbdcopy work over TLS with certificates of both sides',
  async (t) => {
    const running = await start(t, { needsClientCertificate: true, isTcp: true });
    const { address } = running.server;
    assert.equal(address.kind, 'tcp');
    const port = address.kind === 'tcp' ? address.port : 0;
    const uri = `nbds://localhost:${port}/exp?tls-certificates=${running.keys.folder}`;
    const { stdout } = await run('nbdinfo', ['--size', uri]);
    assert.equal(Number(stdout), SIZE);
    const file = `${running.keys.folder}/disk`;
    const content = Buffer.alloc(SIZE, 'over tls');
    await writeFile(file, content);
    await run('nbdcopy', [file, uri]);
    await run('nbdcopy', [uri, `${file}.2`]);
    assert.ok((await readFile(`${file}.2`)).equals(content));
    await assert.rejects(run('nbdinfo', ['--size', `nbd://localhost:${port}/exp`]));
  },
  { requires: ['nbdinfo', 'nbdcopy'] },
);

test(
  'nbdinfo works with a pre-shared key and not with another',
  async (t) => {
    const folder = await t.tempDir();
    await run('psktool', ['-u', 'alice', '-p', `${folder}/keys.psk`]);
    const [, hex = ''] = (await readFile(`${folder}/keys.psk`, 'utf8')).trim().split(':');
    const key = Buffer.from(hex, 'hex');
    const tls: ServerTls = { kind: 'psk', keyOf: (identity) => (identity === 'alice' ? key : undefined) };
    const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path: `${folder}/s` }, tls }));
    server.addExport({ name: 'exp', device: new ServerMemoryDevice({ sizeBytes: SIZE }) });
    const uri = (user: string, keys: string): string =>
      `nbds+unix://${user}@/exp?socket=${folder}/s&tls-psk-file=${folder}/${keys}`;
    const { stdout } = await run('nbdinfo', ['--size', uri('alice', 'keys.psk')]);
    assert.equal(Number(stdout), SIZE);
    await writeFile(`${folder}/wrong.psk`, `alice:${'00'.repeat(32)}\nmallory:${hex}\n`);
    await assert.rejects(run('nbdinfo', ['--size', uri('alice', 'wrong.psk')]));
    await assert.rejects(run('nbdinfo', ['--size', uri('mallory', 'wrong.psk')]));
  },
  { requires: ['nbdinfo', 'psktool'] },
);
