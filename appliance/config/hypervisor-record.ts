// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import type { CollectionDefinition } from './collection.ts';
import { isSealedSecret, type SealedSecret } from './secret-box.ts';

/** A hypervisor that the appliance was told of; its id in the collection is the name that `--connect` takes. */
export interface HypervisorRecord {
  /** libvirt's, without what follows. */
  readonly uri: string;
  /** Of this host: the private key of `qemu+ssh://`, absolute. */
  readonly sshKeyFile?: string;
  /** Of this host: `cacert.pem`, `clientcert.pem` and `clientkey.pem` of `qemu+tls://`, absolute. */
  readonly tlsDirectory?: string;
  /** libvirt's own login (SASL). */
  readonly username?: string;
  readonly password?: SealedSecret;
}

/** Most hypervisors of one appliance. */
const MAX_HYPERVISORS = 500;
const NAME = /^[a-z0-9][a-z0-9._-]{0,62}$/i;
const MEMBERS: ReadonlySet<string> = new Set(['uri', 'sshKeyFile', 'tlsDirectory', 'username', 'password']);
const MAX_TEXT_CHARACTERS = 4096;

export const HYPERVISORS: CollectionDefinition<HypervisorRecord> = {
  name: 'hypervisors',
  maxRecords: MAX_HYPERVISORS,
  check: checkHypervisor,
};

/** True for what may be the name of a hypervisor; a URI never is. */
export function isHypervisorName(text: string): boolean {
  return NAME.test(text);
}

function checkHypervisor(value: unknown, id: string): HypervisorRecord {
  if (!isHypervisorName(id)) {
    throw new ApplianceError('BAD_ARGUMENT', 'a name has up to 63 letters, digits, dots, dashes and underscores');
  }
  if (typeof value !== 'object' || value === null || !('uri' in value)) throw noHypervisor(id, 'has no URI');
  for (const [name, member] of Object.entries(value)) {
    if (!MEMBERS.has(name)) throw noHypervisor(id, `has an unknown member ${name}`);
    if (typeof member !== 'string' || member === '' || member.length > MAX_TEXT_CHARACTERS) {
      throw noHypervisor(id, `has no proper ${name}`);
    }
    if (name === 'password' && !isSealedSecret(member)) throw noHypervisor(id, 'has a password that is not sealed');
    if ((name === 'sshKeyFile' || name === 'tlsDirectory') && !member.startsWith('/')) {
      throw noHypervisor(id, `needs an absolute path as its ${name}`);
    }
  }
  return value as HypervisorRecord;
}

function noHypervisor(id: string, what: string): ApplianceError {
  return new ApplianceError('BAD_ARGUMENT', `the hypervisor ${id} ${what}`);
}
