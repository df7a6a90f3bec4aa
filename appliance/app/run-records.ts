// SPDX-License-Identifier: Apache-2.0

import type { RunRecords } from '../api/runs/run-history.ts';
import type { RunReport } from '../api/schemas/runs.ts';
import type { Catalog } from '../catalog/catalog.ts';

/** The runs in the catalog that is open at the time. */
export function runRecords(open: () => Promise<Catalog>): RunRecords {
  return {
    all: async () => (await open()).records<RunReport>('run/'),
    get: async (id) => (await open()).record<RunReport>('run/', id),
    put: async (id, run) => (await open()).putRecord('run/', id, run),
    delete: async (id) => (await open()).deleteRecord('run/', id),
  };
}
