// SPDX-License-Identifier: Apache-2.0
import { BASE_ALLOCATION } from '../protocol.ts';
import { protocolError } from './option-codec.ts';
import type { StatusExtent } from './request.ts';

/** How the flags of two parts of one block become the flags of the block, and those of a part that was not told. */
interface BlockRule {
  readonly join: (a: number, b: number) => number;
  readonly unknown: number;
}

/** A block is a hole or zero only when all of it is. */
const ALLOCATION_RULE: BlockRule = { join: (a, b) => a & b, unknown: 0 };
/** A block is dirty when any of it is. */
const BITMAP_RULE: BlockRule = { join: (a, b) => a | b, unknown: 1 };

/**
 * Extents whose edges lie on blocks, so that the next request can start where they end. Servers should answer so by
 * themselves; where one does not, the block takes the more careful of the states (data, dirty).
 *
 * @throws NBD_PROTOCOL for a context whose flags cannot be joined
 */
export function alignStatus(extents: StatusExtent[], blockBytes: number, context: string): StatusExtent[] {
  if (blockBytes === 1 || extents.every((extent) => extent.length % blockBytes === 0)) return extents;
  const rule = ruleOf(context);
  const aligned: StatusExtent[] = [];
  /** Bytes of the block that is being put together, and its flags. */
  let partBytes = 0;
  let partFlags = 0;
  for (const { length, flags } of extents) {
    let left = length;
    if (partBytes > 0) {
      const taken = Math.min(left, blockBytes - partBytes);
      partBytes += taken;
      partFlags = rule.join(partFlags, flags);
      left -= taken;
      if (partBytes < blockBytes) continue;
      append(aligned, blockBytes, partFlags);
    }
    partBytes = left % blockBytes;
    partFlags = flags;
    append(aligned, left - partBytes, flags);
  }
  if (partBytes > 0) append(aligned, blockBytes, rule.join(partFlags, rule.unknown));
  return aligned;
}

function ruleOf(context: string): BlockRule {
  if (context === BASE_ALLOCATION) return ALLOCATION_RULE;
  if (context.startsWith('qemu:dirty-bitmap:')) return BITMAP_RULE;
  throw protocolError(`the extents of ${context} do not lie on whole blocks`);
}

function append(extents: StatusExtent[], length: number, flags: number): void {
  if (length === 0) return;
  const last = extents.at(-1);
  if (last !== undefined && last.flags === flags) last.length += length;
  else extents.push({ length, flags });
}
