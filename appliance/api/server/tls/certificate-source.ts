// SPDX-License-Identifier: Apache-2.0
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import type { Clock } from '../../../core/clock.ts';
import { toError } from '../../../core/errors.ts';
import { storageError } from '../../../core/file-system.ts';
import { type CheckedPair, checkPair } from './key-pair.ts';
import { selfSignedPair } from './self-signed.ts';

/** The operator's own files are looked at so often; the appliance's own certificate with them. */
const LOOK_INTERVAL_MS = 10_000;

/** In the state directory. */
const DIRECTORY = 'tls';

/** The operator's own certificate (with its chain) and its key: PEM files. */
export interface CertificateFiles {
  readonly certificate: string;
  readonly key: string;
}

export interface CertificateSourceOptions {
  readonly stateDirectory: string;
  /** Left out: the appliance makes its own. */
  readonly files?: CertificateFiles | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * The certificate that is served: the operator's own, read again when its files change, or a self-signed one. A pair that cannot
 * be used is refused, with a line in the log, and the one before goes on.
 */
export class CertificateSource implements Disposable {
  readonly #options: CertificateSourceOptions;
  readonly #timer: NodeJS.Timeout;
  readonly #listeners = new Set<(pair: CheckedPair) => void>();
  #current: CheckedPair;
  /** What was refused last: said once. */
  #refused = '';

  private constructor(options: CertificateSourceOptions, current: CheckedPair) {
    this.#options = options;
    this.#current = current;
    this.#timer = setInterval(() => void this.look(), LOOK_INTERVAL_MS);
    this.#timer.unref();
  }

  /** @throws ApplianceError CERTIFICATE_INVALID; IO_FAILED, NO_SPACE */
  static async open(options: CertificateSourceOptions): Promise<CertificateSource> {
    return new CertificateSource(options, await currentPair(options));
  }

  get current(): CheckedPair {
    return this.#current;
  }

  onChange(listener: (pair: CheckedPair) => void): void {
    this.#listeners.add(listener);
  }

  /** Looks whether there is another one by now. Never throws: what is wrong is in the log. */
  async look(): Promise<void> {
    const { logger } = this.#options;
    try {
      const next = await currentPair(this.#options);
      this.#refused = '';
      if (textOf(next) === textOf(this.#current)) return;
      this.#current = next;
      for (const listener of this.#listeners) listener(next);
      const validTo = new Date(next.validToMs).toISOString();
      logger.info({ fingerprint: next.fingerprint, validTo }, 'another certificate is served');
    } catch (error) {
      const { message } = toError(error);
      if (message === this.#refused) return;
      this.#refused = message;
      logger.error({ err: error }, 'the new certificate is not used; the one before goes on');
    }
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#listeners.clear();
  }
}

async function currentPair({ stateDirectory, files, clock, logger }: CertificateSourceOptions): Promise<CheckedPair> {
  if (files !== undefined) {
    const [certificate, key] = await Promise.all([read(files.certificate), read(files.key)]);
    return checkPair({ certificate, key }, clock.nowMs());
  }
  const { pair, isNew } = await selfSignedPair(join(stateDirectory, DIRECTORY), clock.nowMs());
  if (isNew)
    logger.warn({ fingerprint: pair.fingerprint }, 'a certificate was made; clients have to know its fingerprint');
  return pair;
}

async function read(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw storageError(error, 'read', path);
  }
}

function textOf({ certificate, key }: CheckedPair): string {
  return certificate + key;
}
