// SPDX-License-Identifier: Apache-2.0
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { toError } from '../../appliance/core/errors.ts';
import { patience } from './patience.ts';

/** How long one resource may take to go away. */
const DISPOSAL_LIMIT_MS = 10_000;

/** Anything that a test can hand over for disposal; the first of the three that exists is called. */
export type Resource = AsyncDisposable | Disposable | { close(): unknown };

/** What a test body receives. */
export interface TestContext {
  readonly title: string;
  /** Aborted when the time budget is used up, before the resources are disposed. */
  readonly signal: AbortSignal;
  /** Returns the resource; it is disposed when the test ends, in reverse order. A failing disposal fails the test. */
  use<T extends Resource>(resource: T): T;
  /** A fresh, empty directory with a short path (unix sockets fit), removed when the test ends. */
  tempDir(): Promise<string>;
}

/** The scope of one test: its context, its time budget, its resources. */
export class TestScope implements TestContext {
  readonly title: string;
  readonly #abort = new AbortController();
  readonly #disposals: (() => unknown)[] = [];
  #isClosed = false;

  constructor(title: string) {
    this.title = title;
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  use<T extends Resource>(resource: T): T {
    if (this.#isClosed) {
      // An abandoned body went on after its time was up: it must not leak either.
      void Promise.resolve(disposalOf(resource)()).catch(() => undefined);
      throw new Error(`"${this.title}" acquired a resource after it had ended`);
    }
    this.#disposals.push(disposalOf(resource));
    return resource;
  }

  async tempDir(): Promise<string> {
    const path = await mkdtemp(join(tmpdir(), 'us-'));
    this.use({ close: () => rm(path, { recursive: true, force: true, maxRetries: 3 }) });
    return path;
  }

  /** Runs the body within its budget and disposes everything. Returns every error, the body's first. */
  async run(body: (t: TestContext) => Promise<void> | void, budgetMs: number): Promise<Error[]> {
    const errors: Error[] = [];
    try {
      await within(budgetMs, 'the test', async () => body(this));
    } catch (error) {
      errors.push(toError(error));
    }
    return [...errors, ...(await this.end())];
  }

  /** Disposes everything, without a body to run. Returns every error. */
  async end(): Promise<Error[]> {
    const errors: Error[] = [];
    this.#abort.abort();
    this.#isClosed = true;
    for (const dispose of this.#disposals.splice(0).reverse()) {
      try {
        await within(DISPOSAL_LIMIT_MS * patience(), 'a cleanup', async () => dispose());
      } catch (error) {
        errors.push(new Error(`cleanup failed: ${toError(error).message}`, { cause: error }));
      }
    }
    return errors;
  }
}

function disposalOf(resource: Resource): () => unknown {
  if (Symbol.asyncDispose in resource) return () => resource[Symbol.asyncDispose]();
  if (Symbol.dispose in resource) return () => resource[Symbol.dispose]();
  return () => resource.close();
}

async function within(limitMs: number, what: string, work: () => Promise<unknown>): Promise<void> {
  const { promise: timeout, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`${what} did not end within ${limitMs} ms`)), limitMs);
  try {
    await Promise.race([work(), timeout]);
  } finally {
    clearTimeout(timer);
  }
}
