// SPDX-License-Identifier: Apache-2.0
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { runTool } from '../../appliance/hypervisor/tool.ts';

/** An authority, a server's and a client's certificate, under the names that libvirt looks for below `pkipath`. */
export async function makeAuthority(folder: string): Promise<string> {
  await mkdir(folder);
  const path = (name: string): string => join(folder, name);
  const make = async (
    name: string,
    kind: string,
    lines: readonly string[],
    signed: readonly string[],
  ): Promise<void> => {
    const template = path(`${name}.template`);
    await writeFile(template, `${[`cn = ${name === 'server' ? 'localhost' : name}`, ...lines].join('\n')}\n`);
    await runTool('certtool', [
      '--generate-privkey',
      '--key-type=rsa',
      '--bits=2048',
      '--outfile',
      path(`${name}key.pem`),
    ]);
    const own = [
      '--load-privkey',
      path(`${name}key.pem`),
      '--template',
      template,
      '--outfile',
      path(`${name}cert.pem`),
    ];
    await runTool('certtool', [kind, ...signed, ...own]);
  };
  const usage = ['encryption_key', 'signing_key'];
  const authority = ['--load-ca-certificate', path('cacert.pem'), '--load-ca-privkey', path('cakey.pem')];
  await make('ca', '--generate-self-signed', ['ca', 'cert_signing_key'], []);
  await make('server', '--generate-certificate', [...usage, 'dns_name = localhost', 'tls_www_server'], authority);
  await make('client', '--generate-certificate', [...usage, 'tls_www_client'], authority);
  return folder;
}

/** For servers that cannot choose a port by themselves. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
