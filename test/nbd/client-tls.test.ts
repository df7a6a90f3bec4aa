// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import { exportInfo, listExports } from '../../appliance/nbd/client/list.ts';
import { OPT, REP } from '../../appliance/nbd/protocol.ts';
import { suite } from '../support/suite.ts';
import { bytesAt, startBadServer } from './support-bad-server.ts';
import { startNbdkit, startQemuNbdTls } from './support-client-peers.ts';
import { rejects } from './support-client-rig.ts';
import { makePskFile, makeTlsMaterial } from './support-tls-material.ts';

const test = suite('nbd client: tls', { timeoutMs: 20_000 });
const NBDKIT = { requires: ['nbdkit', 'certtool', 'psktool'] };
const MIB = 1024 * 1024;

test(
  'certificates: both sides prove who they are, and data goes both ways',
  async (t) => {
    const tls = await makeTlsMaterial(t);
    const args = ['--tls=require', `--tls-certificates=${tls.serverDir}`, '--tls-verify-peer', 'memory', '8M'];
    const server = await startNbdkit(t, args);
    const uri = `nbds+unix:///?socket=${server.socket}&tls-certificates=${tls.clientDir}`;
    const device = t.use(await connectNbd(uri));
    assert.ok(device.isTls);
    const written = bytesAt(5, 3 * MIB);
    await device.write(4096, written);
    await device.flush();
    const into = Buffer.alloc(written.length);
    await Promise.all(
      Array.from({ length: 48 }, (_, index) =>
        device.read(4096 + index * 65_536, into.subarray(index * 65_536, (index + 1) * 65_536)),
      ),
    );
    assert.ok(into.equals(written));
    assert.equal((await device.extents({ offset: 0, length: 8 * MIB })).at(-1)?.kind, 'hole');
    assert.equal((await exportInfo(uri)).isTls, true);
    assert.deepEqual(await listExports(uri), [{ name: '' }]);
  },
  NBDKIT,
);

test(
  'a wrong authority, name or client certificate ends in NBD_TLS_FAILED',
  async (t) => {
    const tls = await makeTlsMaterial(t);
    const args = ['--tls=require', `--tls-certificates=${tls.serverDir}`, '--tls-verify-peer', 'memory', '1M'];
    const server = await startNbdkit(t, args);
    const uri = `nbds+unix:///?socket=${server.socket}`;
    await rejects(connectNbd(`${uri}&tls-certificates=${tls.strangerDir}`), 'NBD_TLS_FAILED');
    await rejects(connectNbd(`${uri}&tls-certificates=${tls.authorityDir}`), 'NBD_TLS_FAILED');
    await rejects(connectNbd(`${uri}&tls-certificates=${tls.clientDir}&tls-hostname=example.org`), 'NBD_TLS_FAILED');
    await rejects(connectNbd(`${uri}&tls-certificates=${await t.tempDir()}`), 'NBD_TLS_FAILED');
    await rejects(connectNbd(uri), 'NBD_TLS_FAILED');
    t.use(await connectNbd(`${uri}&tls-certificates=${tls.clientDir}&tls-hostname=127.0.0.1`));
  },
  NBDKIT,
);

test(
  'pre-shared keys: the right identity and key, or NBD_TLS_FAILED',
  async (t) => {
    const psk = await makePskFile(t, 'alice', 'bob');
    const otherPsk = await makePskFile(t, 'alice');
    const server = await startNbdkit(t, ['--tls=require', `--tls-psk=${psk}`, 'memory', '1M']);
    const uri = (user: string, file: string): string =>
      `nbds+unix://${user}@/?socket=${server.socket}&tls-psk-file=${file}`;
    const device = t.use(await connectNbd(uri('alice', psk)));
    assert.ok(device.isTls);
    await device.write(0, Buffer.from('secret'));
    const into = Buffer.alloc(6);
    await device.read(0, into);
    assert.equal(into.toString(), 'secret');
    await rejects(connectNbd(uri('alice', otherPsk)), 'NBD_TLS_FAILED');
    await rejects(connectNbd(uri('mallory', psk)), 'NBD_TLS_FAILED');
    await rejects(connectNbd(uri('alice', '/nonexistent')), 'NBD_TLS_FAILED');
    await rejects(connectNbd(`${uri('alice', psk)}&tls-type=x509`), 'NBD_TLS_FAILED');
  },
  NBDKIT,
);

test(
  'nbds never falls back to plain text; nbd with key material uses TLS where it is offered',
  async (t) => {
    const tls = await makeTlsMaterial(t);
    const plain = await startNbdkit(t, ['memory', '1M']);
    const material = `tls-certificates=${tls.clientDir}`;
    await rejects(connectNbd(`nbds+unix:///?socket=${plain.socket}&${material}`), 'NBD_TLS_FAILED');
    const optional = await startNbdkit(t, ['--tls=on', `--tls-certificates=${tls.serverDir}`, 'memory', '1M']);
    for (const [server, isTls] of [
      [plain, false],
      [optional, true],
    ] as const) {
      const device = t.use(await connectNbd(`nbd+unix:///?socket=${server.socket}&${material}`));
      assert.equal(device.isTls, isTls);
      await device.read(0, Buffer.alloc(4096));
    }
    assert.equal(t.use(await connectNbd(`nbd+unix:///?socket=${optional.socket}`)).isTls, false);
  },
  NBDKIT,
);

test(
  'a server that requires TLS says so to a plain client',
  async (t) => {
    const tls = await makeTlsMaterial(t);
    const server = await startNbdkit(t, ['--tls=require', `--tls-certificates=${tls.serverDir}`, 'memory', '1M']);
    await rejects(connectNbd(server.uri()), 'NBD_TLS_REQUIRED');
    await rejects(listExports(server.uri()), 'NBD_TLS_REQUIRED');
  },
  NBDKIT,
);

test(
  'qemu-nbd with certificates and with keys',
  async (t) => {
    const tls = await makeTlsMaterial(t);
    const psk = await makePskFile(t, 'qemu');
    const x509 = await startQemuNbdTls(
      t,
      `tls-creds-x509,id=tls0,endpoint=server,dir=${tls.serverDir},verify-peer=yes`,
    );
    const uri = `nbds+unix:///?socket=${x509.socket}`;
    await rejects(connectNbd(`${uri}&tls-certificates=${tls.authorityDir}`), 'NBD_TLS_FAILED');
    t.use(await connectNbd(`${uri}&tls-certificates=${tls.clientDir}`));
    const pskDir = psk.replace(/\/[^/]*$/, '');
    const keyed = await startQemuNbdTls(t, `tls-creds-psk,id=tls0,endpoint=server,dir=${pskDir}`);
    t.use(await connectNbd(`nbds+unix://qemu@/?socket=${keyed.socket}&tls-psk-file=${psk}`));
  },
  { requires: ['qemu-nbd', 'certtool', 'psktool'] },
);

test('bytes in plain text behind the agreement to TLS are a protocol error', async (t) => {
  const tls = { ca: 'unused' };
  const server = await startBadServer(t, {
    onOption: (c, option) => {
      if (option !== OPT.STARTTLS) return false;
      c.socket.cork();
      c.option(option, REP.ACK);
      c.option(OPT.EXTENDED_HEADERS, REP.ACK);
      c.socket.uncork();
      return true;
    },
  });
  await rejects(connectNbd(server.uri.replace('nbd+', 'nbds+'), { tls }), 'NBD_PROTOCOL');
  assert.deepEqual(server.options, [OPT.STARTTLS]);
});

test('a server that agrees to TLS and then says something else fails the handshake', async (t) => {
  for (const answer of [Buffer.alloc(100, 0x41), undefined]) {
    const server = await startBadServer(t, {
      onOption: (c, option) => {
        c.option(option, REP.ACK);
        c.socket.once('data', () => (answer === undefined ? c.socket.end() : c.socket.write(answer)));
        return true;
      },
    });
    await rejects(connectNbd(server.uri.replace('nbd+', 'nbds+'), { tls: {} }), 'NBD_TLS_FAILED');
  }
});
