// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { hasCode } from '../../appliance/core/errors.ts';
import { formatNbdUri, type NbdTarget, parseNbdUri } from '../../appliance/nbd/uri.ts';
import { suite } from '../support/suite.ts';

const test = suite('nbd uri');

const PREFER = { tls: { mode: 'prefer' } } as const;
const REQUIRE = { tls: { mode: 'require' } } as const;

test('the four schemes name transport and TLS', () => {
  assert.deepEqual(parseNbdUri('nbd://host/disk'), {
    kind: 'tcp',
    host: 'host',
    port: 10809,
    exportName: 'disk',
    ...PREFER,
  });
  assert.deepEqual(parseNbdUri('nbds://host:7/disk'), {
    kind: 'tcp',
    host: 'host',
    port: 7,
    exportName: 'disk',
    ...REQUIRE,
  });
  const unix = { kind: 'unix', path: '/run/s', exportName: 'disk' };
  assert.deepEqual(parseNbdUri('nbd+unix:///disk?socket=/run/s'), { ...unix, ...PREFER });
  assert.deepEqual(parseNbdUri('NBDS+UNIX:///disk?socket=%2Frun%2Fs'), { ...unix, ...REQUIRE });
});

test('the export name is the path without exactly one leading slash, decoded', () => {
  const names = {
    'nbd://h': '',
    'nbd://h/': '',
    'nbd://h//disk': '/disk',
    'nbd://h/a/b/': 'a/b/',
    'nbd://h/hello%20world': 'hello world',
    'nbd://h/%2Fx': '/x',
    'nbd://h/a+b': 'a+b',
    'nbd://h/%C3%A4': 'ä',
    'nbd+unix://?socket=/s': '',
    'nbd+unix:////disk?socket=/s': '/disk',
  };
  for (const [uri, name] of Object.entries(names)) assert.equal(parseNbdUri(uri).exportName, name, uri);
});

test('hosts may be left out, addresses, or percent-encoded', () => {
  const hosts: Record<string, [string, number]> = {
    'nbd:///x': ['localhost', 10809],
    'nbd://[::1]/x': ['::1', 10809],
    'nbd://[fe80::1]:99/x': ['fe80::1', 99],
    'nbd://10.0.0.1:/x': ['10.0.0.1', 10809],
    'nbd://h%6fst': ['host', 10809],
  };
  for (const [uri, expected] of Object.entries(hosts)) {
    const target = parseNbdUri(uri);
    assert.deepEqual(target.kind === 'tcp' && [target.host, target.port], expected, uri);
  }
});

test('a socket may lie in the abstract namespace', () => {
  const target = parseNbdUri('nbd+unix:///?socket=%00name');
  assert.equal(target.kind === 'unix' && target.path, '\0name');
});

test('TLS parameters and the user part are taken over', () => {
  const uri = 'nbds://al%20ice@h/x?tls-type=psk&tls-psk-file=/k&tls-hostname=peer&tls-verify-peer=1&x-anything=1';
  assert.deepEqual(parseNbdUri(uri).tls, {
    mode: 'require',
    type: 'psk',
    hostname: 'peer',
    pskFile: '/k',
    pskIdentity: 'al ice',
  });
  assert.deepEqual(parseNbdUri('nbd://h/x?tls-certificates=/c&tls-type=x509').tls, {
    mode: 'prefer',
    type: 'x509',
    certificatesDir: '/c',
  });
});

test('what is malformed, unknown or unsafe is refused', () => {
  const bad = [
    '',
    'nbd',
    'http://h/x',
    'nbd:h',
    'nbd:/x',
    'nbd://h/x#fragment',
    'nbd+vsock://1/x',
    'nbd+ssh://h/x',
    'nbd://h:0/x',
    'nbd://h:65536/x',
    'nbd://h:1a/x',
    'nbd://a:b:c/x',
    'nbd://::1/x',
    'nbd://[zz]/x',
    'nbd://[::1/x',
    'nbd://a:secret@h/x',
    'nbd://h/%zz',
    'nbd://h/%ff',
    'nbd://h/a%00b',
    `nbd://h/${'a'.repeat(4097)}`,
    'nbd://h%00/x',
    'nbd://h/x?socket=/s',
    'nbd://h/x?unknown=1',
    'nbd://h/x?tls-type=anon',
    'nbds://h/x?tls-verify-peer=0',
    'nbd://h/x?tls-hostname=a&tls-hostname=b',
    'nbd+unix:///x',
    'nbd+unix:///x?socket=',
    'nbd+unix:///x?socket=/a%00b',
    'nbd+unix://h/x?socket=/s',
  ];
  for (const uri of bad)
    assert.throws(
      () => parseNbdUri(uri),
      (error) => hasCode(error, 'NBD_BAD_URI'),
      uri,
    );
});

test('a formatted target parses to itself', () => {
  const name = fc.string({ unit: 'grapheme', maxLength: 30 }).filter((text) => !text.includes('\0'));
  const tls = fc.record(
    {
      mode: fc.constantFrom('prefer' as const, 'require' as const),
      type: fc.constantFrom('x509' as const, 'psk' as const),
      hostname: name,
      certificatesDir: name,
      pskFile: name,
      pskIdentity: name.filter((text) => text !== ''),
    },
    { requiredKeys: ['mode'], noNullPrototype: true },
  );
  const tcp = fc.record(
    {
      kind: fc.constant('tcp' as const),
      host: fc.oneof(fc.domain(), fc.ipV4(), fc.ipV6()),
      port: fc.integer({ min: 1, max: 65_535 }),
      exportName: name,
      tls,
    },
    { noNullPrototype: true },
  );
  const unix = fc.record(
    {
      kind: fc.constant('unix' as const),
      path: name.filter((text) => text !== ''),
      exportName: name,
      tls,
    },
    { noNullPrototype: true },
  );
  fc.assert(
    fc.property(fc.oneof(tcp, unix), (target: NbdTarget) => {
      assert.deepEqual(parseNbdUri(formatNbdUri(target)), target);
    }),
    { numRuns: 500 },
  );
});

test('any text is a target or NBD_BAD_URI', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.webUrl(),
        fc.string().map((text) => `nbd+unix://${text}`),
      ),
      (text) => {
        try {
          assert.ok(parseNbdUri(text).exportName.length >= 0);
        } catch (error) {
          assert.ok(hasCode(error, 'NBD_BAD_URI'), String(error));
        }
      },
    ),
    { numRuns: 2000 },
  );
});
