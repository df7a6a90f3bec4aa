// SPDX-License-Identifier: Apache-2.0
import { type Aead, nodeAead } from './aead.ts';
import { loadOpenssl } from './openssl.ts';

let chosen: Aead | undefined;

/** The fastest implementation that this program offers; the same for the whole life of a thread. */
export function fastestAead(): Aead {
  chosen ??= loadOpenssl() ?? nodeAead;
  return chosen;
}
