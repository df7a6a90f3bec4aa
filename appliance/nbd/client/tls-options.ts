// SPDX-License-Identifier: Apache-2.0
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { type ConnectionOptions, checkServerIdentity, type PeerCertificate } from 'node:tls';
import { ApplianceError, systemErrorCode } from '../../core/errors.ts';
import type { NbdTarget } from '../uri.ts';
import type { NbdTlsOptions } from './options.ts';

/** TLS as one connection attempt uses it: not at all, when the server agrees, or always. */
export interface TlsPlan {
  readonly startTls: 'never' | 'try' | 'require';
  readonly options: ConnectionOptions;
}

/** Cipher suites without certificates; the server proves itself by knowing the key. Those of TLS 1.3 fit both types. */
const PSK_CIPHERS =
  'TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:ECDHE-PSK-CHACHA20-POLY1305:' +
  'DHE-PSK-AES256-GCM-SHA384:DHE-PSK-AES128-GCM-SHA256:ECDHE-PSK-AES256-CBC-SHA384:ECDHE-PSK-AES128-CBC-SHA256';

/**
 * What a target and the client's options ask for, with key material read from its files. The certificate of the server is
 * always checked against the authorities and the host name; a key file that cannot be read is an error, never "no TLS".
 *
 * @throws NBD_TLS_FAILED for unreadable or malformed key material
 */
export async function planTls(target: NbdTarget, given: NbdTlsOptions | undefined): Promise<TlsPlan> {
  const policy = target.tls ?? { mode: 'prefer' };
  const pskFile = policy.pskFile ?? given?.pskFile;
  const certificatesDir = policy.certificatesDir ?? given?.certificatesDir;
  const hasMaterial = pskFile !== undefined || certificatesDir !== undefined || given !== undefined;
  if (policy.mode === 'never' || (policy.mode === 'prefer' && !hasMaterial)) return { startTls: 'never', options: {} };
  const hostname = policy.hostname ?? given?.hostname ?? (target.kind === 'tcp' ? target.host : 'localhost');
  const common: ConnectionOptions = {
    minVersion: 'TLSv1.2',
    rejectUnauthorized: true,
    host: hostname,
    ...(isIP(hostname) === 0 ? { servername: hostname } : {}),
  };
  const type = policy.type ?? (pskFile === undefined ? 'x509' : 'psk');
  const identity = policy.pskIdentity ?? given?.pskIdentity ?? localUser();
  const material =
    type === 'psk' ? await pskOptions(pskFile, identity) : await certificateOptions(certificatesDir, given, hostname);
  return { startTls: policy.mode === 'require' ? 'require' : 'try', options: { ...common, ...material } };
}

async function certificateOptions(
  directory: string | undefined,
  given: NbdTlsOptions | undefined,
  hostname: string,
): Promise<ConnectionOptions> {
  const fromDirectory = async (name: string): Promise<Buffer | undefined> =>
    directory === undefined ? undefined : readIfThere(join(directory, name));
  const ca = given?.ca ?? (await fromDirectory('ca-cert.pem'));
  const cert = given?.cert ?? (await fromDirectory('client-cert.pem'));
  const key = given?.key ?? (await fromDirectory('client-key.pem'));
  if (directory !== undefined && ca === undefined) throw materialError(`${directory} holds no ca-cert.pem`);
  if ((cert === undefined) !== (key === undefined)) throw materialError('a client certificate and its key go together');
  return {
    checkServerIdentity: (_host: string, certificate: PeerCertificate) => checkServerIdentity(hostname, certificate),
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined || key === undefined ? {} : { cert, key }),
  };
}

async function pskOptions(pskFile: string | undefined, identity: string): Promise<ConnectionOptions> {
  if (pskFile === undefined) throw materialError('a pre-shared key is asked for, but no key file is given');
  const psk = findKey(await readMaterial(pskFile), identity);
  if (psk === undefined) throw materialError(`${pskFile} holds no key for the identity ${identity}`);
  return {
    ciphers: PSK_CIPHERS,
    pskCallback: () => ({ psk, identity }),
    // With a key there is no certificate. A server that sends one instead of using the key proves nothing about it.
    checkServerIdentity: (_host: string, certificate: PeerCertificate) =>
      Object.keys(certificate).length === 0 ? undefined : new Error('the server did not use the pre-shared key'),
  };
}

function findKey(file: Buffer, identity: string): Buffer | undefined {
  for (const line of file.toString('utf8').split('\n')) {
    const colon = line.lastIndexOf(':');
    if (colon < 0 || line.slice(0, colon) !== identity) continue;
    const hex = line.slice(colon + 1).trim();
    if (!/^(?:[0-9a-f]{2})+$/i.test(hex)) throw materialError(`the key of ${identity} is not hexadecimal`);
    return Buffer.from(hex, 'hex');
  }
  return undefined;
}

async function readIfThere(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (cause) {
    if (systemErrorCode(cause) === 'ENOENT') return undefined;
    throw materialError(`${path} cannot be read`, cause);
  }
}

async function readMaterial(path: string): Promise<Buffer> {
  const content = await readIfThere(path);
  if (content === undefined) throw materialError(`${path} does not exist`);
  return content;
}

function localUser(): string {
  return userInfo().username;
}

function materialError(message: string, cause?: unknown): ApplianceError {
  return new ApplianceError('NBD_TLS_FAILED', message, { cause });
}
