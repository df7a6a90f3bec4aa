// SPDX-License-Identifier: Apache-2.0
import type { ChunkWriterStats } from './chunk-writer.ts';

/** What a writer has stored between two looks at its numbers. */
export function storedSince(
  before: ChunkWriterStats,
  now: ChunkWriterStats,
): { readonly newChunkBytes: number; readonly storedBytes: number } {
  return { newChunkBytes: now.newChunkBytes - before.newChunkBytes, storedBytes: now.storedBytes - before.storedBytes };
}
