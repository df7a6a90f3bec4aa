// SPDX-License-Identifier: Apache-2.0
import { InvalidArgumentError } from 'commander';
import { ROLES, type Role } from '../access/principal.ts';
import type { CommandRun } from './command-run.ts';

export const ROLE_OPTION = '--role <role>';

const MACHINE_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

export function parseRole(text: string): Role {
  const role = ROLES.find((one) => one === text);
  if (role === undefined) throw new InvalidArgumentError(`It is none of ${ROLES.join(', ')}.`);
  return role;
}

export function collect(text: string, before: readonly string[] = []): readonly string[] {
  return [...before, text];
}

/** The ids of machines that were named: a name may mean another machine one day, and a right must not. */
export async function machineIds(
  run: CommandRun,
  names: readonly string[] | undefined,
): Promise<readonly string[] | undefined> {
  if (names === undefined) return undefined;
  const ids: string[] = [];
  for (const name of names) {
    ids.push(MACHINE_ID.test(name) ? name.toLowerCase() : (await run.call('machineShow', { name })).id);
  }
  return ids;
}
