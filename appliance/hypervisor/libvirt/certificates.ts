// SPDX-License-Identifier: Apache-2.0
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { ApplianceError } from '../../core/errors.ts';

export interface LibvirtCertificates {
  readonly ca: Buffer;
  readonly cert: Buffer;
  readonly key: Buffer;
}

const SYSTEM = {
  ca: '/etc/pki/CA/cacert.pem',
  cert: '/etc/pki/libvirt/clientcert.pem',
  key: '/etc/pki/libvirt/private/clientkey.pem',
} as const;
const NAMES = { ca: 'cacert.pem', cert: 'clientcert.pem', key: 'clientkey.pem' } as const;

/**
 * The certificates with which libvirt connects over TLS: in `pkipath=`, else in `~/.pki/libvirt` of a user who has them
 * all there, else those of the system. (libvirt: tlscerts.html, src/rpc/virnettlscontext.c)
 * @throws ApplianceError LIBVIRT_DENIED for files that cannot be read
 */
export async function readLibvirtCertificates(pkiPath: string | undefined): Promise<LibvirtCertificates> {
  const own = inFolder(join(homedir(), '.pki', 'libvirt'));
  const hasOwn = process.getuid?.() !== 0 && Object.values(own).every((path) => existsSync(path));
  const paths = pkiPath !== undefined ? inFolder(pkiPath) : hasOwn ? own : SYSTEM;
  const [ca, cert, key] = await Promise.all([read(paths.ca), read(paths.cert), read(paths.key)]);
  return { ca, cert, key };
}

function inFolder(folder: string): Record<keyof LibvirtCertificates, string> {
  return { ca: join(folder, NAMES.ca), cert: join(folder, NAMES.cert), key: join(folder, NAMES.key) };
}

async function read(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new ApplianceError('LIBVIRT_DENIED', `the certificate or key ${path} cannot be read`, {
      cause,
      details: { path },
      hint: 'Backups over qemu+tls:// use the certificates of the connection; name their directory with pkipath=.',
    });
  }
}
