// SPDX-License-Identifier: Apache-2.0
import { join, resolve } from 'node:path';
import type { CliIo } from './io.ts';

/** Where root's state is, as for any system service (file-hierarchy(7)). */
const SYSTEM_STATE = '/var/lib/understudy';

/**
 * The state directory: `--state`, else `UNDERSTUDY_STATE`, else /var/lib/understudy for root and
 * `$XDG_STATE_HOME/understudy` or `~/.local/state/understudy` for others. Absolute.
 */
export function stateDirectory(option: string | undefined, io: CliIo): string {
  const chosen = option ?? nonEmpty(io.env['UNDERSTUDY_STATE']);
  if (chosen !== undefined) return resolve(io.workingDirectory, chosen);
  if (io.isRoot) return SYSTEM_STATE;
  const xdg = nonEmpty(io.env['XDG_STATE_HOME']);
  // The XDG base directory specification has relative paths ignored.
  const base = xdg?.startsWith('/') === true ? xdg : join(io.homeDirectory, '.local', 'state');
  return join(base, 'understudy');
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === '' ? undefined : text;
}
