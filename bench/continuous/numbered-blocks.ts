// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../appliance/core/errors.ts';

export const BLOCK_BYTES = 4096;

/** A write that was acknowledged and is not there. */
export interface LostWrite {
  readonly block: number;
  readonly number: number;
  readonly acknowledgedAtMs: number;
}

/** What a client knows of blocks that it fills with rising numbers: which were sent, and which were acknowledged and when. */
export class NumberedBlocks {
  readonly sizeBytes: number;
  readonly #sent: Uint32Array;
  #acknowledged: LostWrite[] = [];

  constructor(blocks: number) {
    this.sizeBytes = blocks * BLOCK_BYTES;
    this.#sent = new Uint32Array(blocks);
  }

  /** Acknowledged since the last look. */
  get acknowledgedCount(): number {
    return this.#acknowledged.length;
  }

  /** Fills `into` with the next number of a block, and returns it. */
  next(block: number, into: Buffer): number {
    const number = (this.#sent[block] ?? 0) + 1;
    this.#sent[block] = number;
    for (let at = 0; at < BLOCK_BYTES; at += 8) {
      into.writeUInt32LE(number, at);
      into.writeUInt32LE(block, at + 4);
    }
    return number;
  }

  acknowledge(block: number, number: number, atMs: number): void {
    this.#acknowledged.push({ block, number, acknowledgedAtMs: atMs });
  }

  /** A copy as of now, for a look at what a moment leaves. */
  snapshot(): NumberedBlocks {
    const copy = new NumberedBlocks(this.#sent.length);
    copy.#sent.set(this.#sent);
    copy.#acknowledged = [...this.#acknowledged];
    return copy;
  }

  /**
   * What `content` lacks of everything that was acknowledged since the last look. Numbers go on behind those that were sent.
   * @throws ApplianceError TOOL_FAILED for a block that nobody wrote like that
   */
  takeLost(content: Buffer): LostWrite[] {
    const found = Array.from(this.#sent, (sent, block) => {
      const bytes = content.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
      const number = bytes.readUInt32LE(0);
      if (number > sent || (number > 0 && !isFilledWith(bytes, number, block))) {
        throw new ApplianceError('TOOL_FAILED', `block ${block} holds what nobody wrote: ${number}, ${sent} were sent`);
      }
      return number;
    });
    const lost = this.#acknowledged.filter(({ block, number }) => number > (found[block] ?? 0));
    this.#acknowledged = [];
    return lost;
  }
}

function isFilledWith(bytes: Buffer, number: number, block: number): boolean {
  for (let at = 0; at < bytes.length; at += 8) {
    if (bytes.readUInt32LE(at) !== number || bytes.readUInt32LE(at + 4) !== block) return false;
  }
  return true;
}
