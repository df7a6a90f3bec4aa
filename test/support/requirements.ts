// SPDX-License-Identifier: Apache-2.0
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { systemErrorCode } from '../../appliance/core/errors.ts';

/** Where daemons live; often missing from an ordinary user's PATH. */
const SYSTEM_FOLDERS = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/** Where a program is, or undefined. A name with a slash is a file that must exist (a device, a library). */
export function findProgram(name: string): string | undefined {
  if (name.includes('/')) return isAccessible(name, constants.F_OK) ? name : undefined;
  const folders = [...(process.env['PATH'] ?? '').split(delimiter).filter(Boolean), ...SYSTEM_FOLDERS];
  return folders.map((folder) => join(folder, name)).find((path) => isAccessible(path, constants.X_OK));
}

/** Those of the named programs that this machine does not have. */
export function missingRequirements(names: readonly string[]): string[] {
  return names.filter((name) => findProgram(name) === undefined);
}

/** With REQUIRE_PEERS=1 (CI) a missing peer is a failure and not a reason to skip. */
export function arePeersRequired(): boolean {
  return process.env['REQUIRE_PEERS'] === '1';
}

function isAccessible(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch (error) {
    if (systemErrorCode(error) !== undefined) return false;
    throw error;
  }
}
