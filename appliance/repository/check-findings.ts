// SPDX-License-Identifier: Apache-2.0
import { type ContentKey, keyToHex } from '../core/content-id.ts';
import { type ApplianceError, hasCode } from '../core/errors.ts';
import type { PackId } from '../core/ids.ts';
import type { Touch } from './damage-trace.ts';
import { packKey } from './pack-writer.ts';

/** Findings beyond it are counted, not listed. */
const MAX_FINDINGS = 10_000;

/** One thing that is not as it must be. */
export interface Finding {
  /** The object of the repository, or `catalog`. */
  readonly object: string;
  /** In words. */
  readonly what: string;
  readonly packId?: PackId;
  /** Where in the pack. */
  readonly offset?: number;
  /** 64 hexadecimal digits. */
  readonly contentId?: string;
  /** Mended on the spot: only ever the catalog, from the repository. */
  readonly isRepaired: boolean;
  /** What cannot be restored because of it. */
  readonly touches: readonly Touch[];
}

interface Draft extends Omit<Finding, 'touches' | 'isRepaired'> {
  readonly isRepaired?: boolean;
  /** The content whose loss it is; its touches are added at the end. */
  readonly content?: ContentKey;
}

/** What a check has found so far. */
export class Findings {
  readonly #drafts: Draft[] = [];
  /** Contents that cannot be read, for the trace. */
  readonly bad: Set<ContentKey> = new Set();
  #omitted = 0;

  add(draft: Draft): void {
    if (draft.content !== undefined) this.bad.add(draft.content);
    if (this.#drafts.length < MAX_FINDINGS) this.#drafts.push(draft);
    else this.#omitted += 1;
  }

  /** A content whose frame is damaged or missing. */
  addContent(content: ContentKey, what: string, place?: { readonly packId: PackId; readonly offset: number }): void {
    const contentId = keyToHex(content);
    if (place === undefined) this.add({ object: 'catalog', what, contentId, content });
    else this.add({ object: packKey(place.packId), what, ...placeOf(place), contentId, content });
  }

  /** Runs a check of one object; damage becomes a finding and undefined. Other errors pass. */
  async examine<T>(object: string, work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      if (!isDamage(error)) throw error;
      this.add({ object, what: error.message });
      return undefined;
    }
  }

  get count(): number {
    return this.#drafts.length + this.#omitted;
  }

  get omitted(): number {
    return this.#omitted;
  }

  list(touches: ReadonlyMap<ContentKey, readonly Touch[]>): Finding[] {
    return this.#drafts.map(({ content, isRepaired = false, ...draft }) => ({
      ...draft,
      isRepaired,
      touches: content === undefined ? [] : (touches.get(content) ?? []),
    }));
  }
}

/** True for errors that mean that something stored is not what was stored. */
export function isDamage(error: unknown): error is ApplianceError {
  return hasCode(error, 'REPOSITORY_CORRUPT', 'REPOSITORY_FORMAT', 'OBJECT_NOT_FOUND', 'IO_FAILED', 'CHUNK_MISSING');
}

function placeOf(place: { readonly packId: PackId; readonly offset: number }): {
  readonly packId: PackId;
  readonly offset: number;
} {
  return { packId: place.packId, offset: place.offset };
}
