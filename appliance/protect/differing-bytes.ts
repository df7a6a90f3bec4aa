// SPDX-License-Identifier: Apache-2.0
import type { ContentKey } from '../core/content-id.ts';
import type { Repository } from '../repository/repository.ts';
import { diffMaps } from '../volume/map-diff.ts';

/** Bytes of the chunks in which two maps differ. */
export async function differingBytes(a: ContentKey, b: ContentKey, repository: Repository): Promise<number> {
  let chunks = 0;
  for await (const run of diffMaps(a, b, repository.reader)) chunks += run.count;
  return chunks * repository.chunkBytes;
}
