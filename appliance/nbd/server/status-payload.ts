// SPDX-License-Identifier: Apache-2.0
import type { SelectedContext } from './haggling.ts';

const TWO_32 = 0x1_0000_0000;

/** What the payload of a block status request narrows it to. */
export interface StatusEffect {
  /** Exact up to 2^53 - 1; larger ones are only good for being refused. */
  readonly length: number;
  readonly contexts: readonly SelectedContext[];
}

/**
 * Decodes the payload of BLOCK_STATUS: effect length, then ids of selected contexts, each at most once; undefined when it
 * is anything else. (extension-ext-header, "NBD_CMD_BLOCK_STATUS")
 */
export function decodeStatusPayload(payload: Buffer, selected: readonly SelectedContext[]): StatusEffect | undefined {
  if (payload.length < 12 || (payload.length - 8) % 4 !== 0) return undefined;
  const ids = new Set<number>();
  for (let at = 8; at < payload.length; at += 4) ids.add(payload.readUInt32BE(at));
  const contexts = selected.filter((context) => ids.has(context.id));
  const isExact = ids.size === (payload.length - 8) / 4 && contexts.length === ids.size;
  if (!isExact) return undefined;
  return { length: payload.readUInt32BE(0) * TWO_32 + payload.readUInt32BE(4), contexts };
}
