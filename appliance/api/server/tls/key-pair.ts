// SPDX-License-Identifier: Apache-2.0
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import { ApplianceError, toError } from '../../../core/errors.ts';

/** A certificate with its key, as PEM; the chain follows the certificate. */
export interface KeyPair {
  readonly certificate: string;
  readonly key: string;
}

/** What is known of a pair that can be served. */
export interface CheckedPair extends KeyPair {
  /** SHA-256 of the certificate, as `AB:CD:…`. */
  readonly fingerprint: string;
  readonly validToMs: number;
}

/** A pair that fits together and is valid now. @throws ApplianceError CERTIFICATE_INVALID */
export function checkPair({ certificate, key }: KeyPair, nowMs: number): CheckedPair {
  let parsed: X509Certificate;
  try {
    parsed = new X509Certificate(certificate);
    if (!parsed.checkPrivateKey(createPrivateKey(key))) throw new Error('the key is not the one of the certificate');
    createSecureContext({ cert: certificate, key });
  } catch (cause) {
    throw invalid(`cannot be used: ${toError(cause).message}`, cause);
  }
  const validToMs = Date.parse(parsed.validTo);
  if (nowMs >= validToMs) throw invalid(`was valid until ${parsed.validTo}`);
  if (nowMs < Date.parse(parsed.validFrom)) throw invalid(`is not valid before ${parsed.validFrom}`);
  return { certificate, key, fingerprint: parsed.fingerprint256, validToMs };
}

function invalid(what: string, cause?: unknown): ApplianceError {
  return new ApplianceError('CERTIFICATE_INVALID', `the certificate ${what}`, { cause });
}
