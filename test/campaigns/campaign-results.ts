// SPDX-License-Identifier: Apache-2.0
import { appendFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemErrorCode } from '../../appliance/core/errors.ts';

const DIRECTORY: string = join(import.meta.dirname, '..', '..', '.cache', 'campaigns');

/** What the parts of a campaign found, one line of JSON each, kept so that a campaign that was interrupted can go on. */
export class CampaignResults<Entry> {
  /** Of earlier runs, oldest first. */
  readonly entries: readonly Entry[];
  readonly #path: string;

  private constructor(path: string, entries: readonly Entry[]) {
    this.#path = path;
    this.entries = entries;
  }

  /** The results of that name; with `isFresh` none. */
  static async open<Entry>(name: string, isFresh: boolean): Promise<CampaignResults<Entry>> {
    await mkdir(DIRECTORY, { recursive: true });
    const path = join(DIRECTORY, `${name}.jsonl`);
    if (isFresh) await rm(path, { force: true });
    const text = await readOrNothing(path);
    const lines = text.split('\n').slice(0, -1);
    // A run that was killed may have left half a line.
    if (text !== '' && !text.endsWith('\n')) await writeFile(path, lines.map((line) => `${line}\n`).join(''));
    return new CampaignResults(
      path,
      lines.map((line) => JSON.parse(line) as Entry),
    );
  }

  async add(entry: Entry): Promise<void> {
    await appendFile(this.#path, `${JSON.stringify(entry)}\n`);
  }
}

async function readOrNothing(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return '';
    throw error;
  }
}
