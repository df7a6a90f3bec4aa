// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs';

let known: string | undefined;

/** The version of this program, from its package. */
export function programVersion(): string {
  known ??= readVersion();
  return known;
}

function readVersion(): string {
  const path = new URL('../../package.json', import.meta.url);
  const content: unknown = JSON.parse(readFileSync(path, 'utf8'));
  const hasVersion = typeof content === 'object' && content !== null && 'version' in content;
  return hasVersion && typeof content.version === 'string' ? content.version : 'unknown';
}
