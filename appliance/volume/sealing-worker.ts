// SPDX-License-Identifier: Apache-2.0
import { setPriority } from 'node:os';
import { parentPort } from 'node:worker_threads';
import { ApplianceError, toError } from '../core/errors.ts';
import { invariant } from '../core/invariant.ts';
import type { SealingReply, SealingRequest } from './sealing-thread.ts';
import { SegmentSealer } from './segment-sealer.ts';

/** Sealing is never as urgent as what waits for the log. */
const WORKER_NICENESS = 10;

const port = parentPort;
invariant(port !== null, 'this file runs as a thread');
setPriority(WORKER_NICENESS);
let sealer: SegmentSealer | undefined;

function answer(request: SealingRequest): Buffer[] {
  if (request.op === 'begin') {
    sealer = new SegmentSealer(request.task);
    return [sealer.begin()];
  }
  invariant(sealer !== undefined, 'a sealing begins before it goes on');
  return request.op === 'feed' ? sealer.feed(Buffer.from(request.bytes)) : sealer.finish();
}

port.on('message', (request: SealingRequest) => {
  let reply: SealingReply;
  try {
    reply = { blocks: answer(request).map((block) => Uint8Array.from(block)) };
  } catch (thrown) {
    const error = toError(thrown);
    const code = error instanceof ApplianceError ? error.code : 'INTERNAL';
    reply = { blocks: [], error: { code, message: error.message } };
  }
  port.postMessage(
    reply,
    reply.blocks.map(({ buffer }) => buffer),
  );
});
