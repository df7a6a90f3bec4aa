// SPDX-License-Identifier: Apache-2.0
import { type Immutable, type Static, Type } from './type.ts';
import { count, flag, list, maybe, number, orNull, params, part, report, text, word } from './vocabulary.ts';

/** The hypervisors that the appliance was told of. */

const name = word('Up to 63 letters, digits, dots, dashes and underscores; what `connect` takes in place of a URI.');
const revision = maybe(
  number({ from: 0, to: Number.MAX_SAFE_INTEGER }, 'CONFLICT when it is not the one that is there.'),
);

const credentialMembers = {
  sshKeyFile: maybe(word('Private key for `qemu+ssh://`: an absolute path on the appliance.')),
  tlsDirectory: maybe(word('Directory of cacert.pem, clientcert.pem and clientkey.pem for `qemu+tls://`, absolute.')),
  username: maybe(word("For libvirt's own login (SASL).")),
  password: maybe(word('Kept sealed, and never returned.')),
} as const;

export const hypervisorParams = params({ name });

export const hypervisorRemoveParams = params({ name, revision });

export const hypervisorAddParams = params({ name, uri: word("libvirt's URI."), ...credentialMembers });

export const hypervisorUpdateParams = params({
  name,
  uri: maybe(word("libvirt's URI.")),
  ...credentialMembers,
  withoutCredentials: maybe(flag('Forget key file, certificates, user name and password; those that are given hold.')),
  revision,
});

export const hypervisorReport = report('HypervisorReport', {
  name: text(),
  uri: text(),
  sshKeyFile: orNull(text()),
  tlsDirectory: orNull(text()),
  username: orNull(text()),
  hasPassword: flag(),
  revision: count('Grows with each change; for `revision` of the next one.'),
});

export const hypervisorListResult = Type.Array(hypervisorReport);

export const hypervisorTestReport = report('HypervisorTestReport', {
  name: text(),
  uri: text(),
  isOk: flag(),
  machines: orNull(count(), 'Machines that can be seen there.'),
  steps: list(
    part({ what: text(), isOk: flag(), detail: text('What was found, or what is missing.'), hint: text() }),
    'What was looked at, in this order; the first that is not ok is the reason.',
  ),
});

export type HypervisorParams = Immutable<Static<typeof hypervisorParams>>;
export type HypervisorRemoveParams = Immutable<Static<typeof hypervisorRemoveParams>>;
export type HypervisorAddParams = Immutable<Static<typeof hypervisorAddParams>>;
export type HypervisorUpdateParams = Immutable<Static<typeof hypervisorUpdateParams>>;
export type HypervisorReport = Immutable<Static<typeof hypervisorReport>>;
export type HypervisorTestReport = Immutable<Static<typeof hypervisorTestReport>>;
