// SPDX-License-Identifier: Apache-2.0
import { execFile } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** A test authority with a server and a client certificate, in the layout that libnbd and QEMU expect. */
export interface TlsKeys {
  readonly folder: string;
  readonly authority: Buffer;
  readonly serverKey: Buffer;
  readonly serverCertificate: Buffer;
  readonly clientKey: Buffer;
  readonly clientCertificate: Buffer;
}

/** Makes certificates for `localhost` with certtool. */
export async function makeTlsKeys(folder: string): Promise<TlsKeys> {
  await mkdir(folder, { recursive: true });
  const file = (name: string): string => join(folder, name);
  const key = async (name: string): Promise<void> => {
    await run('certtool', ['--generate-privkey', '--key-type=ecdsa', '--outfile', file(`${name}-key.pem`)]);
  };
  const template = async (name: string, lines: readonly string[]): Promise<void> => {
    await writeFile(file(`${name}.info`), `${lines.join('\n')}\n`);
  };
  await Promise.all(['ca', 'server', 'client'].map(key));
  await template('ca', ['cn = Test authority', 'ca', 'cert_signing_key']);
  await template('server', ['cn = localhost', 'dns_name = localhost', 'ip_address = 127.0.0.1', 'tls_www_server']);
  await template('client', ['cn = a client', 'tls_www_client', 'signing_key']);
  const ca = ['--load-privkey', file('ca-key.pem'), '--template', file('ca.info'), '--outfile', file('ca-cert.pem')];
  await run('certtool', ['--generate-self-signed', ...ca]);
  const authority = ['--load-ca-certificate', file('ca-cert.pem'), '--load-ca-privkey', file('ca-key.pem')];
  for (const name of ['server', 'client']) {
    const own = ['--load-privkey', file(`${name}-key.pem`), '--template', file(`${name}.info`)];
    await run('certtool', ['--generate-certificate', ...authority, ...own, '--outfile', file(`${name}-cert.pem`)]);
  }
  const read = (name: string): Promise<Buffer> => readFile(file(name));
  return {
    folder,
    authority: await read('ca-cert.pem'),
    serverKey: await read('server-key.pem'),
    serverCertificate: await read('server-cert.pem'),
    clientKey: await read('client-key.pem'),
    clientCertificate: await read('client-cert.pem'),
  };
}
