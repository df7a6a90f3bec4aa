// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { hasCode } from '../../appliance/core/errors.ts';
import { checkIsLocal } from '../../appliance/recover/local-hypervisor.ts';
import { suite } from '../support/suite.ts';

const test = suite('a hypervisor on this host');

test('only connections to this host are local', () => {
  for (const uri of ['qemu:///system', 'qemu:///session', 'qemu+unix:///session?socket=/a/b', 'test:///default']) {
    assert.equal(checkIsLocal(uri), undefined, uri);
  }
  for (const uri of [
    'qemu+ssh://root@host/system',
    'qemu+tls://host/system',
    'qemu+tcp:///system',
    'qemu://host/system',
  ]) {
    assert.throws(
      () => checkIsLocal(uri),
      (error) => hasCode(error, 'NOT_SUPPORTED'),
      uri,
    );
  }
});
