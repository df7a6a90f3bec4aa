// SPDX-License-Identifier: Apache-2.0

import type { RunRecords } from '../../appliance/api/runs/run-history.ts';
import type { RunReport } from '../../appliance/api/schemas/runs.ts';

/** Records of runs as a catalog keeps them, in memory; `kept` outlives a service. */
export function memoryRunRecords(kept: Map<string, RunReport> = new Map()): RunRecords {
  return {
    all: async () => new Map(kept),
    get: async (id) => kept.get(id),
    put: async (id, run) => void kept.set(id, structuredClone(run)),
    delete: async (id) => void kept.delete(id),
  };
}
