// SPDX-License-Identifier: Apache-2.0
import type { BlockLimits } from '../../block/block-device.ts';
import { FLAG } from '../protocol.ts';
import type { NbdTarget } from '../uri.ts';
import { prepare } from './connect.ts';
import { establish } from './establish.ts';
import type { Handshake, Send } from './handshake.ts';
import { negotiateInfo, negotiateList, type Wishes } from './negotiate.ts';
import { DEFAULT_CONNECT_TIMEOUT_MS, type NbdClientOptions } from './options.ts';

/** One entry of a server's list. */
export interface NbdListEntry {
  readonly name: string;
  readonly description?: string;
}

/** An export as the server describes it, for people. */
export interface NbdExportInfo {
  readonly name: string;
  readonly description: string | undefined;
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  readonly isMultiConnSafe: boolean;
  readonly limits: BlockLimits;
  /** Names of the meta contexts that the server lists. */
  readonly contexts: readonly string[];
  readonly isTls: boolean;
  readonly replies: 'simple' | 'structured' | 'extended';
}

/**
 * The exports of a server; the target's export name does not matter.
 *
 * @throws NBD_REFUSED when the server does not list, and what `connectNbd` throws for connections
 */
export function listExports(target: string | NbdTarget, options: NbdClientOptions = {}): Promise<NbdListEntry[]> {
  // LIST needs no replies of the transmission phase; not offering them saves two round trips.
  return ask(target, { ...options, replies: 'simple' }, negotiateList);
}

/**
 * Describes an export without opening it.
 *
 * @throws NBD_EXPORT_UNKNOWN, NBD_REFUSED, and what `connectNbd` throws for connections
 */
export async function exportInfo(target: string | NbdTarget, options: NbdClientOptions = {}): Promise<NbdExportInfo> {
  const facts = await ask(target, options, negotiateInfo);
  return {
    name: facts.canonicalName ?? facts.exportName,
    description: facts.description,
    sizeBytes: facts.sizeBytes,
    isReadOnly: (facts.transmissionFlags & FLAG.READ_ONLY) !== 0,
    isMultiConnSafe: (facts.transmissionFlags & FLAG.CAN_MULTI_CONN) !== 0,
    limits: facts.limits,
    contexts: [...facts.contexts.values()],
    isTls: facts.isTls,
    replies: facts.replies,
  };
}

async function ask<Result>(
  target: string | NbdTarget,
  options: NbdClientOptions,
  handshake: (send: Send, wishes: Wishes) => Handshake<Result>,
): Promise<Result> {
  const { server, tls, wishes } = await prepare(target, options);
  const timeoutMs = options.connectTimeoutMs ?? DEFAULT_CONNECT_TIMEOUT_MS;
  const { channel, result } = await establish(server, (send) => handshake(send, wishes), {
    tls,
    timeoutMs,
    signal: options.signal,
  });
  await channel.end();
  return result;
}
