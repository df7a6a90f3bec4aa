// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { hasCode } from '../../appliance/core/errors.ts';
import { CHUNK, CMD, NBD_ERRNO } from '../../appliance/nbd/protocol.ts';
import { suite } from '../support/suite.ts';
import { answerWell, type BadConnection, bytesAt, type SeenRequest, u16, u32, u64 } from './support-bad-server.ts';
import {
  type Answer,
  data,
  EXTENDED,
  errorChunk,
  hole,
  openScripted,
  rejects,
  SIMPLE,
  STRUCTURED,
  status,
  turns,
} from './support-client-rig.ts';

const test = suite('nbd client: replies', { timeoutMs: 10_000 });

const OFFSET = 8192;
const LENGTH = 4096;

/** Answers to a read that must deliver the right bytes. */
const GOOD: Record<string, Answer> = {
  'one chunk': (c, r) => answerWell(c, r),
  'chunks in reverse order': (c, r) => {
    c.chunk(r, false, CHUNK.OFFSET_DATA, data(r.offset + r.length / 2, r.length / 2));
    c.chunk(r, true, CHUNK.OFFSET_DATA, data(r.offset, r.length / 2));
  },
  'many chunks and an empty last one': (c, r) => {
    for (const index of [3, 1, 0, 7, 5, 2, 6, 4]) {
      c.chunk(r, false, CHUNK.OFFSET_DATA, data(r.offset + (index * r.length) / 8, r.length / 8));
    }
    c.chunk(r, true, CHUNK.NONE);
  },
  'chunks of single bytes': (c, r) => {
    for (let index = 0; index < r.length; index++) {
      c.chunk(r, index === r.length - 1, CHUNK.OFFSET_DATA, data(r.offset + index, 1));
    }
  },
  'unknown reply flags': (c, r) => {
    const header = [u32(0x668e33ef), u16(0xffff), u16(CHUNK.OFFSET_DATA), u64(r.cookie), u32(8 + r.length)];
    c.raw(Buffer.concat([...header, data(r.offset, r.length)]));
  },
};

for (const [name, answer] of Object.entries(GOOD)) {
  test(`a read is right when it comes as ${name}`, async (t) => {
    const { device } = await openScripted(t, answer);
    const into = Buffer.alloc(LENGTH, 0xee);
    await device.read(OFFSET, into);
    assert.deepEqual(into, bytesAt(OFFSET, LENGTH));
  });
}

test('a hole reads as zeroes, with data around it', async (t) => {
  const { device } = await openScripted(t, (c, r) => {
    c.chunk(r, false, CHUNK.OFFSET_HOLE, hole(r.offset + 1024, 2048));
    c.chunk(r, false, CHUNK.OFFSET_DATA, data(r.offset, 1024));
    c.chunk(r, true, CHUNK.OFFSET_DATA, data(r.offset + 3072, 1024));
  });
  const into = Buffer.alloc(LENGTH, 0xee);
  await device.read(OFFSET, into);
  assert.deepEqual(into, bytesAt(OFFSET, LENGTH).fill(0, 1024, 3072));
});

/** Answers to a read that break the protocol: the read fails, and so does everything later. */
const BROKEN: Record<string, Answer> = {
  'only half of the bytes': (c, r) => c.chunk(r, true, CHUNK.OFFSET_DATA, data(r.offset, r.length / 2)),
  'nothing at all': (c, r) => c.chunk(r, true, CHUNK.NONE),
  'all but the last byte in two chunks': (c, r) => {
    c.chunk(r, false, CHUNK.OFFSET_DATA, data(r.offset, 100));
    c.chunk(r, true, CHUNK.OFFSET_DATA, data(r.offset + 100, r.length - 101));
  },
  'half, DONE left out, then nothing': (c, r) => {
    c.chunk(r, false, CHUNK.OFFSET_DATA, data(r.offset, r.length / 2));
    c.chunk(r, true, CHUNK.NONE);
  },
  'overlapping chunks': (c, r) => {
    c.chunk(r, false, CHUNK.OFFSET_DATA, data(r.offset, r.length));
    c.chunk(r, true, CHUNK.OFFSET_DATA, data(r.offset + r.length - 1, 1));
  },
  'a hole over data': (c, r) => {
    c.chunk(r, false, CHUNK.OFFSET_DATA, data(r.offset + 512, 512));
    c.chunk(r, true, CHUNK.OFFSET_HOLE, hole(r.offset, r.length));
  },
  'a chunk before the request': (c, r) => c.chunk(r, true, CHUNK.OFFSET_DATA, data(r.offset - 1, r.length)),
  'a chunk behind the request': (c, r) => c.chunk(r, true, CHUNK.OFFSET_DATA, data(r.offset + 1, r.length)),
  'a chunk near 2^64': (c, r) =>
    c.chunk(r, true, CHUNK.OFFSET_DATA, Buffer.concat([u64(0xffffffffffffffffn), bytesAt(0, 512)])),
  'more bytes than asked': (c, r) => c.chunk(r, true, CHUNK.OFFSET_DATA, data(r.offset, r.length + 1)),
  'a length of 2^32 - 1': (c, r) =>
    c.raw(Buffer.concat([u32(0x668e33ef), u16(1), u16(CHUNK.OFFSET_DATA), u64(r.cookie), u32(0xffffffff)])),
  'a data chunk without data': (c, r) => c.chunk(r, true, CHUNK.OFFSET_DATA, u64(r.offset)),
  'a data chunk of 3 bytes': (c, r) => c.chunk(r, true, CHUNK.OFFSET_DATA, Buffer.alloc(3)),
  'a hole of 0 bytes': (c, r) => c.chunk(r, true, CHUNK.OFFSET_HOLE, hole(r.offset, 0)),
  'a hole of 2^32 - 1 bytes': (c, r) => c.chunk(r, true, CHUNK.OFFSET_HOLE, hole(r.offset, 0xffffffff)),
  'a hole chunk of 13 bytes': (c, r) => c.chunk(r, true, CHUNK.OFFSET_HOLE, Buffer.alloc(13)),
  'NONE without DONE': (c, r) => c.chunk(r, false, CHUNK.NONE),
  'NONE with a payload': (c, r) => c.chunk(r, true, CHUNK.NONE, Buffer.alloc(1)),
  'an unknown content chunk': (c, r) => c.chunk(r, true, 0x7fff, Buffer.alloc(4)),
  'a block status': (c, r) => c.chunk(r, true, CHUNK.BLOCK_STATUS, status(7, [4096, 0])),
  'an error of value 0': (c, r) => c.chunk(r, true, CHUNK.ERROR, errorChunk(0, 'fine')),
  'an error shorter than its fields': (c, r) => c.chunk(r, true, CHUNK.ERROR, Buffer.alloc(5, 1)),
  'a message longer than its chunk': (c, r) => c.chunk(r, true, CHUNK.ERROR, Buffer.concat([u32(5), u16(9), u32(0)])),
  'a message of 5000 bytes': (c, r) => c.chunk(r, true, CHUNK.ERROR, errorChunk(5, 'x'.repeat(5000))),
  'an error chunk of 64 KiB': (c, r) => c.chunk(r, true, 0x80ff, Buffer.alloc(65_536)),
  'an error offset without room': (c, r) => c.chunk(r, true, CHUNK.ERROR_OFFSET, errorChunk(5, 'eight ch')),
  'an unknown cookie': (c, r) => c.chunk({ ...r, cookie: r.cookie + 1n }, true, CHUNK.OFFSET_DATA, data(r.offset, 1)),
  'a cookie near 2^64': (c, r) => c.chunk({ ...r, cookie: 2n ** 64n - 1n }, true, CHUNK.NONE),
  'a wrong magic': (c) => c.raw(Buffer.alloc(64, 0x5a)),
  'a simple reply': (c, r) => c.simple(r, 0, bytesAt(r.offset, r.length)),
  'a simple error reply': (c, r) => c.simple(r, NBD_ERRNO.EINVAL),
  'an answer after the answer': (c, r) => {
    answerWell(c, r);
    c.chunk(r, true, CHUNK.OFFSET_DATA, data(r.offset, r.length));
  },
};

for (const [name, answer] of Object.entries(BROKEN)) {
  test(`${name} as the answer to a read is a protocol error that stays`, async (t) => {
    const { device, server } = await openScripted(t, answer);
    if (name === 'an answer after the answer') await device.read(OFFSET, Buffer.alloc(LENGTH)).catch(() => undefined);
    await rejects(device.read(OFFSET, Buffer.alloc(LENGTH)), 'NBD_PROTOCOL');
    await rejects(device.read(0, Buffer.alloc(512)), 'NBD_PROTOCOL');
    assert.equal(server.accepted, 1);
    assert.equal(device.connections, 0);
  });
}

test('an error fails its own request only, with the words of the server made printable', async (t) => {
  const { device } = await openScripted(t, (c, r) => {
    if (r.offset > 0) return answerWell(c, r);
    c.chunk(r, false, CHUNK.OFFSET_DATA, data(0, 512));
    c.chunk(r, false, CHUNK.ERROR_OFFSET, errorChunk(NBD_ERRNO.EIO, 'bad\u001b[31m sector', 512));
    c.chunk(r, true, CHUNK.NONE);
  });
  const results = await Promise.allSettled([0, 4096, 0, 8192].map((at) => device.read(at, Buffer.alloc(4096))));
  assert.deepEqual(
    results.map((result) => result.status),
    ['rejected', 'fulfilled', 'rejected', 'fulfilled'],
  );
  const [first] = results;
  assert.ok(first?.status === 'rejected' && hasCode(first.reason, 'NBD_SERVER_ERROR'));
  assert.deepEqual(first.reason.details, { errno: 'EIO', offset: 0, length: 4096, errorOffset: 512 });
  assert.ok(first.reason.message.endsWith('bad\u{fffd}[31m sector'), first.reason.message);
});

test('unknown error types and values fail only their request, as EINVAL', async (t) => {
  const { device } = await openScripted(t, (c, r) => {
    if (r.offset === 0) return c.chunk(r, true, 0x80ff, Buffer.concat([errorChunk(4711, 'new'), Buffer.alloc(10)]));
    answerWell(c, r);
  });
  await assert.rejects(device.read(0, Buffer.alloc(512)), (error) => {
    return hasCode(error, 'NBD_SERVER_ERROR') && error.details['errno'] === 'EINVAL';
  });
  await device.read(512, Buffer.alloc(512));
});

test('chunks of several requests may be interleaved and out of order', async (t) => {
  const held: SeenRequest[] = [];
  const { device } = await openScripted(t, (c, r) => {
    held.push(r);
    if (held.length < 3) return;
    for (const half of [1, 0]) {
      for (const request of held.toReversed()) {
        const at = request.offset + (half * request.length) / 2;
        c.chunk(request, half === 0, CHUNK.OFFSET_DATA, data(at, request.length / 2));
      }
    }
  });
  const buffers = [0, 4096, 65_536].map((at) => ({ at, into: Buffer.alloc(LENGTH) }));
  await Promise.all(buffers.map(({ at, into }) => device.read(at, into)));
  for (const { at, into } of buffers) assert.deepEqual(into, bytesAt(at, LENGTH));
});

test('a write may be answered by a simple reply although structured ones were negotiated', async (t) => {
  const { device, server } = await openScripted(t, (c, r) => c.simple(r, r.offset === 0 ? 0 : NBD_ERRNO.ENOSPC));
  await device.write(0, Buffer.from('abc'), { fua: true });
  await rejects(device.write(3, Buffer.from('abc')), 'NO_SPACE');
  assert.equal(server.requests[0]?.payload.toString(), 'abc');
  assert.equal(server.requests[0]?.flags, 1);
});

test('simple replies carry the data of a read, and errors without data', async (t) => {
  const { device } = await openScripted(
    t,
    (c, r) => (r.offset === 0 ? c.simple(r, NBD_ERRNO.EIO) : answerWell(c, r, 'simple')),
    SIMPLE,
  );
  const into = Buffer.alloc(70_000);
  await rejects(device.read(0, Buffer.alloc(512)), 'NBD_SERVER_ERROR');
  await device.read(OFFSET, into);
  assert.deepEqual(into, bytesAt(OFFSET, into.length));
});

test('a structured reply that was not negotiated is a protocol error', async (t) => {
  const { device } = await openScripted(t, (c, r) => answerWell(c, r, 'structured'), SIMPLE);
  await rejects(device.read(0, Buffer.alloc(512)), 'NBD_PROTOCOL');
});

test('a read chunk as the answer to a write is a protocol error', async (t) => {
  const { device } = await openScripted(t, (c, r) => c.chunk(r, true, CHUNK.OFFSET_DATA, data(r.offset, r.length)));
  await rejects(device.write(0, Buffer.alloc(512)), 'NBD_PROTOCOL');
});

test('EOVERFLOW splits a read until it fits', async (t) => {
  const { device } = await openScripted(t, (c, r) => {
    if (r.length <= 65_536) return answerWell(c, r);
    c.chunk(r, true, CHUNK.ERROR, errorChunk(NBD_ERRNO.EOVERFLOW, ''));
  });
  const into = Buffer.alloc(524_288);
  await device.read(4096, into);
  assert.deepEqual(into, bytesAt(4096, into.length));
});

test('extended headers: 32-byte requests and replies, PAYLOAD_LEN on writes, 64-bit lengths', async (t) => {
  const { device, server } = await openScripted(t, (c, r) => answerWell(c, r), EXTENDED, { sizeBytes: 2 ** 45 });
  assert.equal(device.replies, 'extended');
  const into = Buffer.alloc(LENGTH);
  await device.read(2 ** 44 + 512, into);
  assert.deepEqual(into, bytesAt(2 ** 44 + 512, LENGTH));
  await device.write(0, Buffer.from('xyz'));
  await device.zero({ offset: 0, length: 2 ** 36 });
  const seen = server.requests.map(({ command, flags, length }) => ({ command, flags, length }));
  assert.deepEqual(seen, [
    { command: CMD.READ, flags: 0, length: LENGTH },
    { command: CMD.WRITE, flags: 32, length: 3 },
    { command: CMD.WRITE_ZEROES, flags: 0, length: 2 ** 36 },
  ]);
});

const BROKEN_EXTENDED: Record<string, Answer> = {
  'a simple reply': (c, r) => c.simple(r, 0, bytesAt(r.offset, r.length)),
  'a structured header': (c, r) =>
    c.raw(Buffer.concat([u32(0x668e33ef), u16(1), u16(0), u64(r.cookie), u64(r.offset), u64(0)])),
  'another offset': (c, r) =>
    c.chunk({ ...r, offset: r.offset + 1 }, true, CHUNK.OFFSET_DATA, data(r.offset, r.length)),
  'a length of 2^63': (c, r) =>
    c.raw(Buffer.concat([u32(0x6e8a278c), u16(1), u16(1), u64(r.cookie), u64(r.offset), u64(2n ** 63n)])),
};

for (const [name, answer] of Object.entries(BROKEN_EXTENDED)) {
  test(`extended headers: ${name} is a protocol error`, async (t) => {
    const { device } = await openScripted(t, answer, EXTENDED);
    await rejects(device.read(OFFSET, Buffer.alloc(LENGTH)), 'NBD_PROTOCOL');
  });
}

test('a device refuses what its limits forbid before sending it', async (t) => {
  const { device, server } = await openScripted(t, (c, r) => answerWell(c, r), STRUCTURED, {
    blockSize: [4096, 65_536, 2 ** 20],
    sizeBytes: 4 * 2 ** 20,
  });
  assert.deepEqual(device.limits, { minimumBytes: 4096, preferredBytes: 65_536, maximumBytes: 2 ** 20 });
  await rejects(device.read(512, Buffer.alloc(4096)), 'BAD_ARGUMENT');
  await rejects(device.read(0, Buffer.alloc(512)), 'BAD_ARGUMENT');
  await rejects(device.read(0, Buffer.alloc(2 * 2 ** 20)), 'BAD_ARGUMENT');
  await rejects(device.read(4 * 2 ** 20, Buffer.alloc(4096)), 'OUT_OF_RANGE');
  await rejects(device.zero({ offset: 0, length: 4096 }, { fastOnly: true }), 'NOT_SUPPORTED');
  await rejects(device.blockStatus({ offset: 0, length: 4096 }, 'base:allocation'), 'NBD_META_CONTEXT_MISSING');
  assert.equal(server.requests.length, 0);
});

test('without strictness forbidden requests reach the server', async (t) => {
  const { device, server } = await openScripted(
    t,
    (c, r) => c.chunk(r, true, CHUNK.ERROR, errorChunk(NBD_ERRNO.EINVAL, '')),
    { ...STRUCTURED, strict: false },
    { blockSize: [4096, 4096, 4096] },
  );
  await rejects(device.read(1, Buffer.alloc(1)), 'NBD_SERVER_ERROR');
  await rejects(device.trim({ offset: 2 ** 50, length: 0 }), 'NBD_SERVER_ERROR');
  assert.deepEqual(
    server.requests.map(({ command, offset, length }) => [command, offset, length]),
    [
      [CMD.READ, 1, 1],
      [CMD.TRIM, 2 ** 50, 0],
    ],
  );
});

test('requests in flight are bounded by count and by bytes; the others wait in order', async (t) => {
  const seen: SeenRequest[] = [];
  let connection: BadConnection | undefined;
  const { device } = await openScripted(
    t,
    (c, r) => {
      connection = c;
      seen.push(r);
    },
    { ...STRUCTURED, maximumRequests: 3, maximumInFlightBytes: 10_000 },
  );
  const reads = [0, 1, 2, 3, 4].map((index) => device.read(index * 4096, Buffer.alloc(4096)));
  while (seen.length < 2) await turns(1);
  await turns();
  assert.equal(seen.length, 2, 'two of 4096 bytes fit into 10,000');
  for (let index = 0; index < 5; index++) {
    while (seen.length <= index) await turns(1);
    const request = seen[index];
    assert.ok(connection !== undefined && request !== undefined);
    assert.equal(request.offset, index * 4096);
    answerWell(connection, request);
  }
  await Promise.all(reads);
});

test('a flush is sent only after the writes before it were answered', async (t) => {
  const held: (() => void)[] = [];
  const { device, server } = await openScripted(t, (c, r) => {
    if (r.command === CMD.WRITE) held.push(() => c.simple(r, 0));
    else c.simple(r, 0);
  });
  const writes = [device.write(0, Buffer.alloc(512)), device.write(512, Buffer.alloc(512))];
  const flush = device.flush();
  while (held.length < 2) await turns(1);
  await turns();
  assert.deepEqual(
    server.requests.map((request) => request.command),
    [CMD.WRITE, CMD.WRITE],
  );
  for (const answer of held) answer();
  await Promise.all([...writes, flush]);
  assert.deepEqual(server.requests.map(({ command, offset, length }) => [command, offset, length]).at(-1), [
    CMD.FLUSH,
    0,
    0,
  ]);
});
