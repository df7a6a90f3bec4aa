// SPDX-License-Identifier: Apache-2.0
import { styleText } from 'node:util';
import type { CliIo, OutputStream } from './io.ts';

type Format = Parameters<typeof styleText>[0];

/** Applies colours and weights to text, or leaves it alone. */
export type Paint = (format: Format, text: string) => string;

/** Colours for one stream: only on a terminal that knows them, and not with `NO_COLOR` (no-color.org). */
export function paintFor(stream: OutputStream, env: CliIo['env']): Paint {
  const isPlain = stream.isTTY !== true || (env['NO_COLOR'] ?? '') !== '' || env['TERM'] === 'dumb';
  return isPlain ? (_format, text) => text : (format, text) => styleText(format, text, { validateStream: false });
}
