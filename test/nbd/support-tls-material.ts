// SPDX-License-Identifier: Apache-2.0
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from '../support/test-scope.ts';
import { runTool } from './support-client-peers.ts';

/** Directories in the layout that nbdkit, QEMU and `certificatesDir` share. */
export interface TlsMaterial {
  /** Authority and a server certificate for localhost and 127.0.0.1. */
  readonly serverDir: string;
  /** The same authority and a client certificate. */
  readonly clientDir: string;
  /** The authority alone. */
  readonly authorityDir: string;
  /** Another authority with a client certificate of its own. */
  readonly strangerDir: string;
}

/** Makes keys and certificates with GnuTLS's certtool. */
export async function makeTlsMaterial(t: TestContext): Promise<TlsMaterial> {
  const root = await t.tempDir();
  const directory = async (name: string): Promise<string> => {
    await mkdir(join(root, name));
    return join(root, name);
  };
  const material = {
    serverDir: await directory('server'),
    clientDir: await directory('client'),
    authorityDir: await directory('authority'),
    strangerDir: await directory('stranger'),
  };
  await makeAuthority(material.authorityDir);
  await makeAuthority(material.strangerDir);
  for (const place of [material.serverDir, material.clientDir]) {
    await symlink(join(material.authorityDir, 'ca-cert.pem'), join(place, 'ca-cert.pem'));
  }
  const serverNames = 'cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\ntls_www_server\n';
  await makeCertificate(material.authorityDir, join(material.serverDir, 'server'), serverNames);
  await makeCertificate(material.authorityDir, join(material.clientDir, 'client'), 'cn = client\ntls_www_client\n');
  await makeCertificate(material.strangerDir, join(material.strangerDir, 'client'), 'cn = stranger\ntls_www_client\n');
  return material;
}

/** A file of pre-shared keys for these identities, as psktool writes it. */
export async function makePskFile(t: TestContext, ...identities: string[]): Promise<string> {
  const path = join(await t.tempDir(), 'keys.psk');
  for (const identity of identities) await runTool('psktool', '-u', identity, '-p', path);
  return path;
}

async function makeAuthority(directory: string): Promise<void> {
  const key = join(directory, 'ca-key.pem');
  const template = join(directory, 'ca.info');
  await writeFile(template, 'cn = Test authority\nca\ncert_signing_key\nexpiration_days = 2\n');
  await makeKey(key);
  const target = join(directory, 'ca-cert.pem');
  await runTool(
    'certtool',
    '--generate-self-signed',
    '--load-privkey',
    key,
    '--template',
    template,
    '--outfile',
    target,
  );
}

async function makeCertificate(authority: string, prefix: string, names: string): Promise<void> {
  const template = `${prefix}.info`;
  await writeFile(template, `${names}signing_key\nexpiration_days = 2\n`);
  await makeKey(`${prefix}-key.pem`);
  const options = {
    'load-ca-certificate': join(authority, 'ca-cert.pem'),
    'load-ca-privkey': join(authority, 'ca-key.pem'),
    'load-privkey': `${prefix}-key.pem`,
    template,
    outfile: `${prefix}-cert.pem`,
  };
  await runTool(
    'certtool',
    '--generate-certificate',
    ...Object.entries(options).flatMap(([key, value]) => [`--${key}`, value]),
  );
}

async function makeKey(path: string): Promise<void> {
  await runTool('certtool', '--generate-privkey', '--key-type', 'ecdsa', '--curve', 'secp256r1', '--outfile', path);
}
