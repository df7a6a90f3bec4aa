// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { hasCode } from '../../appliance/core/errors.ts';
import { isLocal, parseEndpoint } from '../../appliance/hypervisor/libvirt/endpoint.ts';
import { tunnelArguments } from '../../appliance/hypervisor/ssh-tunnel.ts';
import { suite } from '../support/suite.ts';

const test = suite('where a libvirt URI leads');

test('a URI without host and transport is this host, and with a host it is TLS', () => {
  for (const uri of ['qemu:///system', 'qemu+unix:///session?socket=/a/b', 'test:///default']) assert.ok(isLocal(uri));
  for (const uri of ['qemu+ssh:///system', 'qemu://host/system', 'qemu+unix://host/system']) assert.ok(!isLocal(uri));
  assert.deepEqual(parseEndpoint('qemu://vm-1.lab/system?pkipath=/etc/k&no_verify=1'), {
    kind: 'tls',
    host: 'vm-1.lab',
    tls: { pkiPath: '/etc/k', isHostVerified: false },
  });
  assert.deepEqual(parseEndpoint('qemu+tcp://[fe80::1]:16509/system'), { kind: 'tcp', host: 'fe80::1' });
  assert.deepEqual(parseEndpoint('qemu+ext://host/system'), { kind: 'other', transport: 'ext' });
});

test('an alias of libvirt.conf is refused: it may lead anywhere', () => {
  for (const uri of ['lab', '', 'qemu', 'qemu:/system']) {
    assert.throws(
      () => parseEndpoint(uri),
      (error) => hasCode(error, 'BAD_ARGUMENT'),
    );
  }
});

test('a tunnel is dug as libvirt connects: same user, port, key and known hosts', () => {
  const endpoint = parseEndpoint('qemu+ssh://ann@host:2222/system?keyfile=/k%20y&no_verify=1&command=/opt/ssh');
  assert.ok(endpoint.kind === 'ssh');
  assert.equal(endpoint.ssh.command, '/opt/ssh');
  const remote = { host: '127.0.0.1', port: 10_850 };
  const args = tunnelArguments({ target: endpoint.ssh, socketPath: '/run/s', remote }).join(' ');
  assert.match(
    args,
    /-o BatchMode=yes .*-o StrictHostKeyChecking=no -l ann -p 2222 -i \/k y -L \/run\/s:127\.0\.0\.1:10850 -- host$/,
  );
  const plain = parseEndpoint('qemu+ssh://host/system');
  assert.ok(plain.kind === 'ssh');
  assert.doesNotMatch(
    tunnelArguments({ target: plain.ssh, socketPath: '/run/s', remote }).join(' '),
    /Strict|-l |-p |-i /,
  );
});
