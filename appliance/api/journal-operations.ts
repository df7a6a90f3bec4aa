// SPDX-License-Identifier: Apache-2.0

export type { RewindReport } from './schemas/booted.ts';
export type * from './schemas/journal.ts';
