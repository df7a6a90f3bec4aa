// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import type { NbdClientOptions } from '../../appliance/nbd/client/options.ts';
import { ReplyParser } from '../../appliance/nbd/client/reply-parser.ts';
import { Request } from '../../appliance/nbd/client/request.ts';
import { CHUNK, CMD } from '../../appliance/nbd/protocol.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import {
  type BadConnection,
  type BadServerScript,
  bytesAt,
  type SeenRequest,
  startBadServer,
  u16,
  u32,
  u64,
} from './support-bad-server.ts';
import { data, errorChunk, hole, status } from './support-client-rig.ts';

const test = suite('nbd client: fuzz', { timeoutMs: 60_000 });

const MODES = ['simple', 'structured', 'extended'] as const;
type Mode = (typeof MODES)[number];

/** Every error that a mutated server may cause; anything else is a defect of the client. */
const EXPECTED = new Set([
  'NBD_PROTOCOL',
  'NBD_CONNECT_FAILED',
  'NBD_CONNECTION_LOST',
  'NBD_REFUSED',
  'NBD_EXPORT_UNKNOWN',
  'NBD_TLS_REQUIRED',
  'NBD_SERVER_ERROR',
  'NBD_META_CONTEXT_MISSING',
  'NO_SPACE',
  'NOT_SUPPORTED',
  'READ_ONLY',
  'OUT_OF_RANGE',
  'BAD_ARGUMENT',
  'TIMED_OUT',
  'CLOSED',
]);

/** A session that uses every kind of reply; returns what went wrong. */
async function session(uri: string, mode: Mode, timeoutMs: number = 5_000): Promise<string[]> {
  const errors: string[] = [];
  const attempt = async (work: Promise<unknown>): Promise<void> => {
    try {
      await work;
    } catch (error) {
      assert.ok(error instanceof ApplianceError && EXPECTED.has(error.code), `unexpected ${String(error)}`);
      errors.push(error.code);
    }
  };
  const options: NbdClientOptions = {
    replies: mode,
    reconnect: false,
    connectTimeoutMs: timeoutMs,
    requestTimeoutMs: timeoutMs,
    metaContexts: mode === 'simple' ? [] : ['base:allocation', 'x:y'],
  };
  await attempt(
    (async () => {
      await using device = await connectNbd(uri, options);
      const into = Buffer.alloc(64);
      await attempt(device.read(0, into));
      await Promise.all([
        attempt(device.read(1024, Buffer.alloc(48))),
        attempt(device.write(0, Buffer.alloc(16))),
        attempt(device.read(3000, Buffer.alloc(32))),
      ]);
      await attempt(device.flush());
      if (device.contexts.size > 0) await attempt(device.blockStatusAll({ offset: 0, length: 4096 }));
    })(),
  );
  return errors;
}

function answer(mode: Mode): (connection: BadConnection, request: SeenRequest) => void {
  return (c, r) => {
    if (mode === 'simple') return c.simple(r, 0, r.command === CMD.READ ? bytesAt(r.offset, r.length) : undefined);
    if (r.command === CMD.READ && r.offset === 0) {
      c.chunk(r, false, CHUNK.OFFSET_DATA, data(32, 32));
      c.chunk(r, false, CHUNK.OFFSET_HOLE, hole(0, 32));
      return c.chunk(r, true, CHUNK.NONE);
    }
    if (r.command === CMD.READ && r.offset === 3000) {
      return c.chunk(r, true, CHUNK.ERROR_OFFSET, errorChunk(5, 'bad sector', 3000));
    }
    if (r.command === CMD.READ) return c.chunk(r, true, CHUNK.OFFSET_DATA, data(r.offset, r.length));
    if (r.command !== CMD.BLOCK_STATUS) return c.chunk(r, true, CHUNK.NONE);
    if (mode === 'structured') {
      c.chunk(r, false, CHUNK.BLOCK_STATUS, status(1, [512, 3], [512, 0]));
      return c.chunk(r, true, CHUNK.BLOCK_STATUS, status(2, [4096, 1]));
    }
    c.chunk(r, false, CHUNK.BLOCK_STATUS_EXT, Buffer.concat([u32(1), u32(1), u64(512), u64(3)]));
    c.chunk(r, true, CHUNK.BLOCK_STATUS_EXT, Buffer.concat([u32(2), u32(1), u64(4096), u64(1)]));
  };
}

function script(mode: Mode, transform?: BadServerScript['transform']): BadServerScript {
  return {
    onRequest: answer(mode),
    contexts: [
      [1, 'base:allocation'],
      [2, 'x:y'],
    ],
    ...(transform === undefined ? {} : { transform }),
  };
}

/** Length of the stream of an undisturbed session, which is checked to go well. */
async function recordedBytes(t: TestContext, mode: Mode): Promise<number> {
  const server = await startBadServer(t, script(mode));
  assert.deepEqual(await session(server.uri, mode), mode === 'simple' ? [] : ['NBD_SERVER_ERROR']);
  return Buffer.concat(server.sent).length;
}

for (const mode of MODES) {
  test(`${mode}: a stream cut at every byte ends in an error and nothing hangs`, async (t) => {
    const length = await recordedBytes(t, mode);
    assert.ok(length > 150);
    let cut = 0;
    let isStalling = false;
    const server = await startBadServer(
      t,
      script(mode, (bytes, position) => {
        const kept = Math.max(0, Math.min(bytes.length, cut - position));
        return kept < bytes.length && !isStalling ? [bytes.subarray(0, kept), 'end'] : [bytes.subarray(0, kept)];
      }),
    );
    for (; cut < length; cut++) {
      const errors = await session(server.uri, mode);
      assert.ok(
        errors.some((code) => code !== 'NBD_SERVER_ERROR'),
        `cut at ${cut}: ${errors.join(', ')}`,
      );
    }
    isStalling = true;
    for (cut = 1; cut < length; cut += 23) {
      const errors = await session(server.uri, mode, 30);
      assert.ok(errors.includes('TIMED_OUT'), `stalled at ${cut}: ${errors.join(', ')}`);
    }
  });

  test(`${mode}: a stream in pieces of one byte is the same stream`, async (t) => {
    const server = await startBadServer(
      t,
      script(mode, (bytes) => Array.from(bytes, (byte) => Buffer.of(byte))),
    );
    assert.deepEqual(await session(server.uri, mode), mode === 'simple' ? [] : ['NBD_SERVER_ERROR']);
  });

  test(`${mode}: changed bytes end in answers or errors, never in a crash, a hang or much memory`, async (t) => {
    const length = await recordedBytes(t, mode);
    let mutations: readonly { at: number; value: number }[] = [];
    const server = await startBadServer(
      t,
      script(mode, (bytes, position) => {
        const changed = Buffer.from(bytes);
        for (const { at, value } of mutations) if (at >= position) changed[at - position] = value;
        return [changed];
      }),
    );
    const before = process.memoryUsage().arrayBuffers;
    const mutation = fc.record({
      at: fc.nat({ max: length - 1 }),
      value: fc.oneof(fc.constantFrom(0, 1, 2, 0x7f, 0x80, 0xff), fc.nat({ max: 255 })),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(mutation, { minLength: 1, maxLength: 3 }), async (some) => {
        mutations = some;
        await session(server.uri, mode, 40);
      }),
      { numRuns: 150 },
    );
    assert.ok(process.memoryUsage().arrayBuffers - before < 64 * 1024 * 1024);
  });
}

test('noise instead of a server ends in an error', async (t) => {
  let noise = Buffer.alloc(0);
  const server = await startBadServer(t, { transform: () => [noise] });
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 20, maxLength: 400 }), async (bytes) => {
      noise = Buffer.from(bytes);
      assert.ok((await session(server.uri, 'extended', 40)).length > 0);
    }),
    { numRuns: 50 },
  );
});

/** Chunks that answer a read, in a random order: the pieces of its range, each as data or as a hole. */
interface PlannedRead {
  readonly offset: number;
  readonly length: number;
  readonly cuts: readonly number[];
  readonly holes: readonly boolean[];
}

const plannedRead = fc.record({
  offset: fc.oneof(fc.nat({ max: 100_000 }), fc.constantFrom(2 ** 32 - 100, 2 ** 40 + 1, 2 ** 52)),
  length: fc.integer({ min: 1, max: 60_000 }),
  cuts: fc.array(fc.nat({ max: 60_000 }), { maxLength: 6 }),
  holes: fc.array(fc.boolean(), { minLength: 8, maxLength: 8 }),
});

test('any interleaving, order and cutting of chunks gives the bytes of every read', () => {
  const plan = fc.record({
    mode: fc.constantFrom('structured' as const, 'extended' as const),
    reads: fc.array(plannedRead, { minLength: 1, maxLength: 4 }),
    order: fc.infiniteStream(fc.nat({ max: 1000 })),
    pieces: fc.array(fc.integer({ min: 1, max: 50_000 }), { minLength: 1, maxLength: 40 }),
    isDirect: fc.boolean(),
  });
  fc.assert(
    fc.property(plan, ({ mode, reads, order, pieces, isDirect }) => {
      const planned = reads.map((read, index) => planRead(read, index + 1, mode));
      const stream = interleave(
        planned.map((read) => read.chunks),
        order,
      );
      const rig = newParser(
        mode,
        planned.map((read) => read.request),
      );
      feedInPieces(rig.parser, stream, { pieces, isDirect });
      assert.equal(rig.done.length, planned.length);
      for (const { request, expected, guarded } of planned) {
        assert.ok(request.buffer?.equals(expected));
        assert.ok(guarded.subarray(0, 16).every((byte) => byte === 0xa5));
        assert.ok(guarded.subarray(-16).every((byte) => byte === 0xa5));
      }
    }),
    { numRuns: 300 },
  );
});

test('a parser with changed bytes throws NBD_PROTOCOL or goes on, and stays inside its buffers', () => {
  const plan = fc.record({
    mode: fc.constantFrom('structured' as const, 'extended' as const),
    reads: fc.array(plannedRead, { minLength: 1, maxLength: 3 }),
    order: fc.infiniteStream(fc.nat({ max: 1000 })),
    pieces: fc.array(fc.integer({ min: 1, max: 50_000 }), { minLength: 1, maxLength: 10 }),
    changes: fc.array(fc.tuple(fc.nat(), fc.nat({ max: 255 })), { minLength: 1, maxLength: 8 }),
    isDirect: fc.boolean(),
  });
  fc.assert(
    fc.property(plan, ({ mode, reads, order, pieces, changes, isDirect }) => {
      const planned = reads.map((read, index) => planRead(read, index + 1, mode));
      const stream = interleave(
        planned.map((read) => read.chunks),
        order,
      );
      // Half of the changes hit the first bytes, where the headers are.
      for (const [index, [at, value]] of changes.entries()) stream[at % (index % 2 === 0 ? 60 : stream.length)] = value;
      const rig = newParser(
        mode,
        planned.map((read) => read.request),
      );
      try {
        feedInPieces(rig.parser, stream, { pieces, isDirect });
      } catch (error) {
        assert.ok(error instanceof ApplianceError && error.code === 'NBD_PROTOCOL', String(error));
      }
      for (const { guarded } of planned) {
        assert.ok(guarded.subarray(0, 16).every((byte) => byte === 0xa5));
        assert.ok(guarded.subarray(-16).every((byte) => byte === 0xa5));
      }
    }),
    { numRuns: 1000 },
  );
});

function planRead(
  { offset, length, cuts, holes }: PlannedRead,
  cookie: number,
  mode: Mode,
): { request: Request; expected: Buffer; guarded: Buffer; chunks: Buffer[] } {
  const edges = [...new Set([0, length, ...cuts.filter((cut) => cut < length)])].sort((a, b) => a - b);
  const guarded = Buffer.alloc(length + 32, 0xa5);
  const request = new Request(CMD.READ, { offset, length, buffer: guarded.subarray(16, 16 + length) });
  const expected = bytesAt(offset % 65_536, length);
  const chunks: Buffer[] = [];
  const header = (isDone: boolean, type: number, payload: Buffer): Buffer => {
    const start = [u16(isDone ? 1 : 0), u16(type), u64(cookie)];
    if (mode === 'structured') return Buffer.concat([u32(0x668e33ef), ...start, u32(payload.length), payload]);
    return Buffer.concat([u32(0x6e8a278c), ...start, u64(offset), u64(payload.length), payload]);
  };
  for (let index = 1; index < edges.length; index++) {
    const start = edges[index - 1] ?? 0;
    const end = edges[index] ?? 0;
    const isHole = holes[index % 8] === true;
    if (isHole) expected.fill(0, start, end);
    const place = u64(offset + start);
    const payload = isHole ? u32(end - start) : expected.subarray(start, end);
    const type = isHole ? CHUNK.OFFSET_HOLE : CHUNK.OFFSET_DATA;
    // The order of the pieces follows from the flags, too: some in front, some behind.
    const chunk = header(false, type, Buffer.concat([place, payload]));
    if (holes[(index * 3) % 8] === true) chunks.unshift(chunk);
    else chunks.push(chunk);
  }
  chunks.push(header(true, CHUNK.NONE, Buffer.alloc(0)));
  return { request, expected, guarded, chunks };
}

/** One stream out of several queues, each kept in its order. */
function interleave(queues: Buffer[][], order: Iterator<number>): Buffer {
  const left = queues.map((queue) => [...queue]);
  const stream: Buffer[] = [];
  for (;;) {
    const busy = left.filter((queue) => queue.length > 0);
    if (busy.length === 0) return Buffer.concat(stream);
    const queue = busy[Number(order.next().value) % busy.length];
    const chunk = queue?.shift();
    if (chunk !== undefined) stream.push(chunk);
  }
}

function newParser(replies: Mode, requests: readonly Request[]): { parser: ReplyParser; done: Request[] } {
  const done: Request[] = [];
  const inFlight = new Map(requests.map((request, index) => [index + 1, request]));
  const parser = new ReplyParser({
    replies,
    contexts: new Map(),
    inFlight,
    onDone: (request) => {
      done.push(request);
      for (const [cookie, known] of inFlight) if (known === request) inFlight.delete(cookie);
    },
  });
  return { parser, done };
}

function feedInPieces(
  parser: ReplyParser,
  stream: Buffer,
  { pieces, isDirect }: { pieces: readonly number[]; isDirect: boolean },
): void {
  let position = 0;
  for (let index = 0; position < stream.length; index++) {
    const size = Math.min(pieces[index % pieces.length] ?? 1, stream.length - position);
    const target = isDirect ? parser.directTarget() : undefined;
    if (target === undefined) {
      parser.feed(stream, position, position + size);
      position += size;
    } else {
      const length = Math.min(size, target.length);
      stream.copy(target, 0, position, position + length);
      parser.onDirectBytes(length);
      position += length;
    }
  }
}
