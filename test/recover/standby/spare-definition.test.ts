// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { adaptDefinition, parseNetworks } from '../../../appliance/recover/standby/spare-definition.ts';
import { suite } from '../../support/suite.ts';

const test = suite('the definition of a spare');
const SAVED =
  '<domain type="kvm"><name>web</name><memory unit="KiB">2097152</memory><currentMemory unit="KiB">2097152</currentMemory><devices>' +
  '<interface type="network"><source network="lan" portgroup="blue"/></interface>' +
  '<interface type="bridge"><source bridge="br0"/></interface>' +
  '<interface type="direct"><source dev="eth0" mode="bridge"/></interface>' +
  '<interface type="user"/></devices></domain>';

test('networks, bridges and devices are renamed as mapped, and others stay', () => {
  const { xml, changes } = adaptDefinition(SAVED, {
    networks: { lan: 'lan2', eth0: 'eth1', other: 'x' },
    memoryMiB: null,
  });
  assert.match(xml, /<source network=["']lan2["']\/>/);
  assert.match(xml, /bridge=["']br0["']/);
  assert.match(xml, /dev=["']eth1["'] mode=["']bridge["']/);
  assert.match(xml, /2097152/);
  assert.deepEqual(changes, [
    'Network card 1 is plugged into lan2 instead of lan.',
    'Network card 3 is plugged into eth1 instead of eth0.',
  ]);
});

test('another memory size is both the most and the current memory', () => {
  const { xml, changes } = adaptDefinition(SAVED, { networks: {}, memoryMiB: 512 });
  assert.match(xml, /<memory unit=["']MiB["']>512<\/memory>/);
  assert.match(xml, /<currentMemory unit=["']MiB["']>512<\/currentMemory>/);
  assert.deepEqual(changes, ['The memory is 512 MiB.']);
});

test('the memory of a machine with slots or cells is not changed', () => {
  for (const part of ['<maxMemory slots="4">4194304</maxMemory>', '<cpu><numa><cell id="0"/></numa></cpu>']) {
    const saved = SAVED.replace('<devices>', `${part}<devices>`);
    assert.throws(() => adaptDefinition(saved, { networks: {}, memoryMiB: 512 }), { code: 'NOT_SUPPORTED' });
    adaptDefinition(saved, { networks: { lan: 'lan2' }, memoryMiB: null });
  }
});

test('a mapping of networks is read strictly', () => {
  assert.deepEqual(parseNetworks(undefined), {});
  assert.deepEqual(parseNetworks('a=b,c=d'), { a: 'b', c: 'd' });
  for (const text of ['a', '=b', 'a=', 'a=b=c', 'a=b,a=c']) {
    assert.throws(() => parseNetworks(text), { code: 'BAD_ARGUMENT' }, text);
  }
});
