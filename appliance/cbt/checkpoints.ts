// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { hasCode, toError } from '../core/errors.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';

/**
 * The checkpoints of one appliance on one machine, for one run of it: nobody else makes or deletes such meanwhile, so they are
 * listed once. A name says whose it is, so that nothing of anybody else's (other tools, another appliance) is ever touched, and
 * is never used twice: a bitmap may outlive its checkpoint.
 */
export class OwnCheckpoints {
  readonly #prefix: string;
  readonly #domain: Domain;
  readonly #kept: readonly string[];
  /** Those that may be there, oldest first; undefined before the first look. */
  #own: Set<string> | undefined;

  /** `kept`: names of those that something else still needs. */
  constructor(domain: Domain, repositoryId: string, kept: readonly string[] = []) {
    this.#domain = domain;
    this.#kept = kept;
    this.#prefix = prefixOf(repositoryId);
  }

  newName(): string {
    const name = `${this.#prefix}${randomBytes(8).toString('hex')}`;
    this.#own?.add(name);
    return name;
  }

  isOwn(name: string): boolean {
    return name.startsWith(this.#prefix);
  }

  /** Names of every checkpoint of the machine, ours or not. */
  async names(): Promise<string[]> {
    const names = (await this.#domain.checkpoints()).map(({ name }) => name);
    this.#own = new Set(names.filter((name) => this.isOwn(name)));
    return names;
  }

  /** Deletes every own checkpoint but those and the kept ones; sentences about the ones that could not be deleted. */
  async deleteAllBut(...keep: readonly (string | undefined)[]): Promise<string[]> {
    if (this.#own === undefined) await this.names();
    const problems: string[] = [];
    for (const name of this.#own ?? []) {
      if ([...keep, ...this.#kept].includes(name)) continue;
      const problem = await this.#delete(name);
      if (problem === undefined) this.#own?.delete(name);
      else problems.push(problem);
    }
    return problems;
  }

  /** With its bitmap where that works; when the bitmap is broken or gone, the metadata alone. */
  async #delete(name: string): Promise<string | undefined> {
    try {
      const checkpoint = await this.#domain.checkpoint(name);
      try {
        await checkpoint.delete();
      } catch (error) {
        if (!hasCode(error, 'CHECKPOINT_INCONSISTENT', 'LIBVIRT_FAILED')) throw error;
        await checkpoint.delete({ metadataOnly: true });
      }
      return undefined;
    } catch (error) {
      if (hasCode(error, 'CHECKPOINT_NOT_FOUND')) return undefined;
      return `the checkpoint ${name} could not be deleted: ${toError(error).message}`;
    }
  }
}

/** True for a name that `newName` can have made, with nothing before or behind it. Bitmaps have the names of their checkpoints. */
export function isOwnCheckpointName(name: string, repositoryId: string): boolean {
  const prefix = prefixOf(repositoryId);
  return name.startsWith(prefix) && /^[0-9a-f]{16}$/.test(name.slice(prefix.length));
}

function prefixOf(repositoryId: string): string {
  return `understudy-${repositoryId.slice(0, 8)}-`;
}
