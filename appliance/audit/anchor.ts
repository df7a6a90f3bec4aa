// SPDX-License-Identifier: Apache-2.0
import { createHmac, type KeyObject, timingSafeEqual } from 'node:crypto';
import { canonicalJson } from '../core/canonical-json.ts';

/** The end of an audit log at a moment, under an HMAC-SHA-256 by a key of the appliance. It is kept where the log is not. */
export interface AuditAnchor {
  readonly sequence: number;
  readonly hash: string;
  readonly at: string;
  readonly mac: string;
}

export function signAnchor(anchor: Omit<AuditAnchor, 'mac'>, key: KeyObject): AuditAnchor {
  return { ...anchor, mac: macOf(anchor, key) };
}

export function isAnchorGenuine({ mac, ...anchor }: AuditAnchor, key: KeyObject): boolean {
  const [given, expected] = [Buffer.from(mac, 'utf8'), Buffer.from(macOf(anchor, key), 'utf8')];
  return given.length === expected.length && timingSafeEqual(given, expected);
}

function macOf({ sequence, hash, at }: Omit<AuditAnchor, 'mac'>, key: KeyObject): string {
  return createHmac('sha256', key).update(canonicalJson({ sequence, hash, at })).digest('hex');
}
