// SPDX-License-Identifier: Apache-2.0
import { resolve } from 'node:path';
import type { MigrateParams } from '../api/operations.ts';
import { ApplianceError } from '../core/errors.ts';
import type { MigrateRequest } from '../recover/migration-plan.ts';

/** The wishes for a migration as recovery knows them. @throws ApplianceError BAD_ARGUMENT (a directory and a pool) */
export function migrateRequest(params: MigrateParams): MigrateRequest {
  const { name, directory, pool, bandwidth, verify, ...wishes } = params;
  if (directory !== undefined && pool !== undefined) {
    throw new ApplianceError('BAD_ARGUMENT', 'a migration goes to a directory or to a pool, not to both');
  }
  return {
    ...wishes,
    name,
    ...(directory === undefined ? {} : { place: { kind: 'directory', path: resolve(directory) } as const }),
    ...(pool === undefined ? {} : { place: { kind: 'pool', name: pool } as const }),
    ...(bandwidth === undefined ? {} : { bandwidthBytes: bandwidth }),
    ...(verify === undefined ? {} : { verifies: verify }),
  };
}
