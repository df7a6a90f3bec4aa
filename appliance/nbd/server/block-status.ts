// SPDX-License-Identifier: Apache-2.0
import { MAX_EXTENTS_PER_QUERY } from '../../block/block-device.ts';
import { ApplianceError } from '../../core/errors.ts';
import type { Range } from '../../core/extents.ts';
import type { SelectedContext } from './haggling.ts';
import type { ContextAnswer, ContextExtent } from './reply-writer.ts';

/** What a block status request asks for, once it was checked. */
export interface StatusQuery {
  readonly range: Range;
  readonly contexts: readonly SelectedContext[];
  /** Exactly one extent per context (REQ_ONE). */
  readonly isOneOnly: boolean;
}

const MAX_STATUS = 0xffffffff;

/**
 * Asks all contexts and brings their answers into the shape of the wire: at least one extent each, equal neighbours
 * merged, nothing beyond the range. (proto.md, "NBD_CMD_BLOCK_STATUS")
 */
export async function answerBlockStatus(query: StatusQuery): Promise<ContextAnswer[]> {
  return await Promise.all(
    query.contexts.map(async (context) => {
      const extents = normalize(await context.source(query.range), query);
      if (extents.length === 0) {
        throw new ApplianceError('INTERNAL', `${context.name} says nothing about the range`);
      }
      return { contextId: context.id, extents };
    }),
  );
}

function normalize(source: readonly ContextExtent[], query: StatusQuery): ContextExtent[] {
  const maxExtents = query.isOneOnly ? 1 : Math.floor(MAX_EXTENTS_PER_QUERY / query.contexts.length);
  const result: { length: number; status: number }[] = [];
  let left = query.range.length;
  for (const extent of source) {
    const length = Math.min(extent.length, left);
    if (!Number.isSafeInteger(length) || length < 0 || !isStatus(extent.status)) {
      throw new ApplianceError('INTERNAL', 'a meta context has an extent out of bounds');
    }
    if (length === 0) continue;
    const last = result.at(-1);
    if (last !== undefined && last.status === extent.status) last.length += length;
    else if (result.length === maxExtents) break;
    else result.push({ length, status: extent.status });
    left -= length;
  }
  return result;
}

function isStatus(status: number): boolean {
  return Number.isInteger(status) && status >= 0 && status <= MAX_STATUS;
}
