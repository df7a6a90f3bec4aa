// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { hasCode } from '../../appliance/core/errors.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import { exportInfo, listExports } from '../../appliance/nbd/client/list.ts';
import type { NbdClientOptions } from '../../appliance/nbd/client/options.ts';
import { CLISERV_MAGIC, FLAG, INFO, NBDMAGIC, OPT, REP } from '../../appliance/nbd/protocol.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import {
  type BadServer,
  type BadServerScript,
  bytesAt,
  MIB,
  startBadServer,
  USUAL_FLAGS,
  u16,
  u32,
  u64,
} from './support-bad-server.ts';
import { rejects, turns } from './support-client-rig.ts';

const test = suite('nbd client: handshake', { timeoutMs: 10_000 });

async function connectTo(t: TestContext, script: BadServerScript, options: NbdClientOptions = {}): Promise<BadServer> {
  const server = await startBadServer(t, script);
  t.use(await connectNbd(server.uri, options));
  return server;
}

test('extended headers are offered first, then structured replies, contexts, GO', async (t) => {
  assert.deepEqual((await connectTo(t, { unsupported: [OPT.EXTENDED_HEADERS] })).options, [
    OPT.EXTENDED_HEADERS,
    OPT.STRUCTURED_REPLY,
    OPT.SET_META_CONTEXT,
    OPT.GO,
  ]);
  assert.deepEqual((await connectTo(t, {})).options, [OPT.EXTENDED_HEADERS, OPT.SET_META_CONTEXT, OPT.GO]);
  const unsupported = [OPT.EXTENDED_HEADERS, OPT.STRUCTURED_REPLY];
  assert.deepEqual((await connectTo(t, { unsupported })).options, [...unsupported, OPT.GO]);
});

for (const handshakeFlags of [0, 1, 2, 3]) {
  test(`a server without GO is entered by EXPORT_NAME (handshake flags ${handshakeFlags})`, async (t) => {
    const server = await startBadServer(t, {
      handshakeFlags,
      unsupported: [OPT.EXTENDED_HEADERS, OPT.STRUCTURED_REPLY, OPT.GO],
    });
    const device = t.use(await connectNbd(server.uri));
    assert.equal(device.sizeBytes, MIB);
    const into = Buffer.alloc(4096);
    await device.read(512, into);
    assert.deepEqual(into, bytesAt(512, 4096));
    const isFixed = handshakeFlags % 2 === 1;
    assert.equal(server.options.at(-1), OPT.EXPORT_NAME);
    assert.equal(server.options.length, isFixed ? 4 : 1);
  });
}

test('EXPORT_NAME is not used once extended headers are agreed on', async (t) => {
  const server = await startBadServer(t, { unsupported: [OPT.GO] });
  await rejects(connectNbd(server.uri), 'NBD_REFUSED');
  assert.ok(!server.options.includes(OPT.EXPORT_NAME));
});

test('a server that hangs up on an export name has refused it', async (t) => {
  const server = await startBadServer(t, {
    handshakeFlags: 0,
    onOption: (c) => {
      c.socket.end();
      return true;
    },
  });
  await rejects(connectNbd(server.uri), 'NBD_REFUSED');
});

const REFUSALS = {
  NBD_EXPORT_UNKNOWN: REP.ERR_UNKNOWN,
  NBD_TLS_REQUIRED: REP.ERR_TLS_REQD,
  NBD_CONNECTION_LOST: REP.ERR_SHUTDOWN,
  NBD_REFUSED: REP.ERR_POLICY,
} as const;

for (const [code, reply] of Object.entries(REFUSALS)) {
  test(`the refusal 0x${reply.toString(16)} is ${code} and is left with ABORT`, async (t) => {
    const server = await startBadServer(t, {
      onOption: (c, option) => {
        if (option !== OPT.GO) return false;
        c.option(option, reply, Buffer.from('because\u0007'));
        return true;
      },
    });
    await assert.rejects(connectNbd(server.uri), (error) => {
      return hasCode(error, code as keyof typeof REFUSALS) && error.message.endsWith('because\u{fffd}');
    });
    assert.equal(server.options.at(-1), OPT.ABORT);
  });
}

test('a context that is required must be there by its exact name', async (t) => {
  const near = [
    [1, 'qemu:dirty-bitmap:b'],
    [2, 'base:allocation'],
    [3, 'QEMU:dirty-bitmap:b0'],
  ] as const;
  const options = { metaContexts: ['qemu:dirty-bitmap:b0'] };
  const server = await startBadServer(t, { contexts: near });
  await assert.rejects(connectNbd(server.uri, options), (error) => {
    assert.ok(hasCode(error, 'NBD_META_CONTEXT_MISSING'), String(error));
    assert.deepEqual(error.details['missing'], ['qemu:dirty-bitmap:b0']);
    return true;
  });
  for (const script of [
    { unsupported: [OPT.SET_META_CONTEXT] },
    { unsupported: [OPT.EXTENDED_HEADERS, OPT.STRUCTURED_REPLY] },
    { handshakeFlags: 0 },
  ]) {
    const { uri } = await startBadServer(t, script);
    await rejects(connectNbd(uri, options), 'NBD_META_CONTEXT_MISSING');
  }
});

test('contexts of an option that ended in an error do not count', async (t) => {
  const server = await startBadServer(t, {
    onOption: (c, option) => {
      if (option !== OPT.SET_META_CONTEXT) return false;
      c.option(option, REP.META_CONTEXT, Buffer.concat([u32(1), Buffer.from('base:allocation')]));
      c.option(option, REP.ERR_INVALID);
      return true;
    },
  });
  await rejects(connectNbd(server.uri, { metaContexts: ['base:allocation'] }), 'NBD_META_CONTEXT_MISSING');
  const device = t.use(await connectNbd(server.uri));
  assert.deepEqual([...device.contexts], []);
  assert.deepEqual(await device.extents({ offset: 0, length: 512 }), [{ offset: 0, length: 512, kind: 'data' }]);
});

test('an unknown export told by SET_META_CONTEXT is an unknown export', async (t) => {
  const server = await startBadServer(t, {
    onOption: (c, option) => {
      if (option !== OPT.SET_META_CONTEXT) return false;
      c.option(option, REP.ERR_UNKNOWN);
      return true;
    },
  });
  await rejects(connectNbd(server.uri, { metaContexts: ['x:y'] }), 'NBD_EXPORT_UNKNOWN');
});

test('unknown info types and handshake flags are ignored, in any order', async (t) => {
  const server = await startBadServer(t, {
    handshakeFlags: 0xffff,
    onOption: (c, option) => {
      if (option !== OPT.GO) return false;
      c.option(option, REP.INFO, Buffer.concat([u16(0x7777), Buffer.alloc(100)]));
      c.option(option, REP.INFO, Buffer.concat([u16(INFO.DESCRIPTION), Buffer.from('my\ndisk')]));
      return false;
    },
  });
  assert.equal(t.use(await connectNbd(server.uri)).description, 'my\u{fffd}disk');
});

test('transmission flags count only with HAS_FLAGS', async (t) => {
  const server = await startBadServer(t, { transmissionFlags: FLAG.READ_ONLY + FLAG.CAN_MULTI_CONN });
  const device = t.use(await connectNbd(server.uri));
  assert.deepEqual([device.features.isReadOnly, device.features.isMultiConnSafe], [false, false]);
});

test('the tail that no block reaches is refused, not left out', async (t) => {
  const { uri } = await startBadServer(t, { sizeBytes: MIB + 512, blockSize: [4096, 4096, MIB] });
  await rejects(connectNbd(uri), 'NOT_SUPPORTED');
});

const option = (type: number, ...parts: Buffer[]): BadServerScript => ({
  onOption: (c, asked) => {
    if (asked !== OPT.GO) return false;
    c.option(asked, type, Buffer.concat(parts));
    return true;
  },
});

const EXPORT_INFO = Buffer.concat([u16(INFO.EXPORT), u64(MIB), u16(USUAL_FLAGS)]);

const BROKEN: Record<string, BadServerScript> = {
  'no magic': { greeting: Buffer.alloc(64, 1) },
  'an unknown style': { greeting: Buffer.concat([u64(NBDMAGIC), Buffer.alloc(64, 1)]) },
  'a size of 2^63': { sizeBytes: 2n ** 63n },
  'block size 3': { blockSize: [3, 4096, MIB] },
  'block size 0': { blockSize: [0, 4096, MIB] },
  'block size 2^17': { blockSize: [2 ** 17, 2 ** 17, MIB] },
  'preferred below minimum': { blockSize: [4096, 512, MIB] },
  'preferred 256': { blockSize: [1, 256, MIB] },
  'preferred 3000': { blockSize: [1, 3000, MIB] },
  'maximum below preferred': { blockSize: [1, 4096, 2048] },
  'an ACK without INFO_EXPORT': option(REP.ACK),
  'an ACK with data': {
    onOption: (c, asked) => {
      if (asked !== OPT.GO) return false;
      c.option(asked, REP.INFO, EXPORT_INFO);
      c.option(asked, REP.ACK, Buffer.alloc(1));
      return true;
    },
  },
  'an info of one byte': option(REP.INFO, Buffer.alloc(1)),
  'INFO_EXPORT of 13 bytes': option(REP.INFO, EXPORT_INFO, Buffer.alloc(1)),
  'INFO_BLOCK_SIZE of 4 bytes': option(REP.INFO, u16(INFO.BLOCK_SIZE), u16(1)),
  'a description of 5000 bytes': option(REP.INFO, u16(INFO.DESCRIPTION), Buffer.alloc(5000, 65)),
  'an unknown success reply': option(99),
  'a list entry': option(REP.SERVER, u32(0)),
  'another option echoed': {
    onOption: (c) => {
      c.option(OPT.LIST, REP.ACK);
      return true;
    },
  },
  'a reply of 2^32 - 1 bytes': {
    onOption: (c, asked) => {
      c.raw(Buffer.concat([u64(0x0003e889045565a9n), u32(asked), u32(REP.ACK), u32(0xffffffff)]));
      return true;
    },
  },
  'a wrong reply magic': {
    onOption: (c) => {
      c.raw(Buffer.alloc(20, 7));
      return true;
    },
  },
  'endless infos': {
    onOption: (c, asked) => {
      if (asked !== OPT.GO) return false;
      for (let index = 0; index < 1000; index++) c.option(asked, REP.INFO, EXPORT_INFO);
      return true;
    },
  },
  'endless contexts': {
    onOption: (c, asked) => {
      if (asked !== OPT.SET_META_CONTEXT) return false;
      for (let index = 0; index < 3000; index++) {
        c.option(asked, REP.META_CONTEXT, Buffer.concat([u32(index), Buffer.from(`x:${index}`)]));
      }
      return true;
    },
  },
  'a context id twice': {
    contexts: [
      [1, 'base:allocation'],
      [1, 'x:y'],
    ],
  },
  'a context name twice': {
    contexts: [
      [1, 'base:allocation'],
      [2, 'base:allocation'],
    ],
  },
  'a context without a name': { contexts: [[1, '']] },
  'a reply before the first request': {
    onOption: (c, asked) => {
      if (asked !== OPT.GO) return false;
      c.socket.cork();
      c.option(asked, REP.INFO, EXPORT_INFO);
      c.option(asked, REP.ACK);
      c.raw(Buffer.alloc(16));
      c.socket.uncork();
      return true;
    },
  },
};

for (const [name, script] of Object.entries(BROKEN)) {
  test(`${name} is a protocol error`, async (t) => {
    const { uri } = await startBadServer(t, script);
    await rejects(connectNbd(uri, { connectTimeoutMs: 5_000 }), 'NBD_PROTOCOL');
  });
}

test('sizes that do not fit an offset, and oldstyle servers, are refused by name', async (t) => {
  const large = await startBadServer(t, { sizeBytes: 2n ** 53n });
  await rejects(connectNbd(large.uri), 'NOT_SUPPORTED');
  const old = await startBadServer(t, {
    greeting: Buffer.concat([u64(NBDMAGIC), u64(CLISERV_MAGIC), Buffer.alloc(136)]),
  });
  await rejects(connectNbd(old.uri), 'NBD_REFUSED');
});

test('an endless list ends as a protocol error', async (t) => {
  const server = await startBadServer(t, {
    onOption: (c, asked) => {
      if (asked !== OPT.LIST) return false;
      const entry = Buffer.concat([u32(1000), Buffer.alloc(1000, 65)]);
      for (let index = 0; index < 20_000; index++) c.option(asked, REP.SERVER, entry);
      return true;
    },
  });
  await rejects(listExports(server.uri), 'NBD_PROTOCOL');
});

test('a list has names and descriptions, and is left with ABORT', async (t) => {
  const server = await startBadServer(t, {});
  assert.deepEqual(await listExports(server.uri), [{ name: 'a', description: 'x' }]);
  assert.deepEqual(server.options, [OPT.LIST, OPT.ABORT]);
});

test('info describes an export without entering it', async (t) => {
  const contexts = [
    [0, 'base:allocation'],
    [0, 'qemu:dirty-bitmap:b0'],
  ] as const;
  const server = await startBadServer(t, { contexts, blockSize: [512, 65_536, 0xffffffff] });
  assert.deepEqual(await exportInfo(server.uri), {
    name: '',
    description: undefined,
    sizeBytes: MIB,
    isReadOnly: false,
    isMultiConnSafe: false,
    limits: { minimumBytes: 512, preferredBytes: 65_536, maximumBytes: 32 * MIB },
    contexts: ['base:allocation', 'qemu:dirty-bitmap:b0'],
    isTls: false,
    replies: 'extended',
  });
  assert.deepEqual(server.options, [OPT.EXTENDED_HEADERS, OPT.INFO, OPT.LIST_META_CONTEXT, OPT.ABORT]);
});

test('names that the wire cannot carry are refused before connecting', async (t) => {
  const { socket } = await startBadServer(t, {});
  const target = { kind: 'unix', path: socket, exportName: '' } as const;
  await rejects(connectNbd({ ...target, exportName: 'a\0b' }), 'BAD_ARGUMENT');
  await rejects(connectNbd(target, { metaContexts: ['x'.repeat(4097)] }), 'BAD_ARGUMENT');
});

test('nobody there is NBD_CONNECT_FAILED, on unix sockets and TCP', async (t) => {
  await rejects(connectNbd(`nbd+unix:///?socket=${join(await t.tempDir(), 'none')}`), 'NBD_CONNECT_FAILED');
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  await new Promise((resolve) => server.close(resolve));
  await rejects(connectNbd(`nbd://127.0.0.1:${address.port}`), 'NBD_CONNECT_FAILED');
});

test('a server that says nothing is TIMED_OUT, one that hangs up is not', async (t) => {
  const sockets: Socket[] = [];
  const path = join(await t.tempDir(), 's');
  const server = t.use(createServer((socket) => sockets.push(socket)).listen(path));
  await rejects(connectNbd(`nbd+unix:///?socket=${path}`, { connectTimeoutMs: 50 }), 'TIMED_OUT');
  const connecting = connectNbd(`nbd+unix:///?socket=${path}`);
  while (sockets.length < 2) await turns(1);
  sockets[1]?.end();
  await rejects(connecting, 'NBD_CONNECT_FAILED');
  for (const socket of sockets) socket.destroy();
  assert.ok(server.listening);
});

test('an abort ends the connecting, before and during it', async (t) => {
  const { uri } = await startBadServer(t, { onOption: () => true });
  await rejects(connectNbd(uri, { signal: AbortSignal.abort() }), 'ABORTED');
  const abort = new AbortController();
  const connecting = connectNbd(uri, { signal: abort.signal });
  setImmediate(() => abort.abort());
  await rejects(connecting, 'ABORTED');
});

test('an end at every step of the handshake is a lost connection', async (t) => {
  for (const last of [OPT.EXTENDED_HEADERS, OPT.SET_META_CONTEXT, OPT.GO]) {
    const { uri } = await startBadServer(t, {
      onOption: (c, asked) => {
        if (asked === last) c.socket.end(Buffer.concat([u64(0x0003e889045565a9n), u32(asked)]));
        return asked === last;
      },
    });
    await rejects(connectNbd(uri), 'NBD_CONNECTION_LOST');
  }
  const { uri } = await startBadServer(t, { greeting: u64(NBDMAGIC) });
  await rejects(connectNbd(uri, { connectTimeoutMs: 50 }), 'TIMED_OUT');
});
