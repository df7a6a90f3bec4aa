// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { ErrorCode } from '../../appliance/core/error-codes.ts';
import { type FailureContext, toApplianceError } from '../../appliance/hypervisor/libvirt/errors.ts';
import { suite } from '../support/suite.ts';

const test = suite('libvirt errors');

function codeOf(code: number, message: string, context: Partial<FailureContext> = {}): ErrorCode {
  return toApplianceError(
    { code, domain: 10, level: 2, message },
    { operation: 'domainXml', isAlive: true, ...context },
  ).code;
}

test('a number that has one meaning decides the code', () => {
  const expected: readonly (readonly [number, ErrorCode])[] = [
    [42, 'DOMAIN_NOT_FOUND'],
    [68, 'DOMAIN_BUSY'],
    [83, 'DOMAIN_BUSY'],
    [55, 'DOMAIN_WRONG_STATE'],
    [103, 'CHECKPOINT_NOT_FOUND'],
    [104, 'NO_BACKUP_JOB'],
    [109, 'CHECKPOINT_INCONSISTENT'],
    [49, 'VOLUME_NOT_FOUND'],
    [50, 'VOLUME_NOT_FOUND'],
    [67, 'NOT_SUPPORTED'],
    [84, 'NOT_SUPPORTED'],
    [45, 'LIBVIRT_DENIED'],
    [88, 'LIBVIRT_DENIED'],
    [27, 'DOMAIN_XML_INVALID'],
    [1, 'LIBVIRT_FAILED'],
    [9999, 'LIBVIRT_FAILED'],
  ];
  for (const [number, code] of expected) assert.equal(codeOf(number, 'whatever'), code, `number ${number}`);
});

test('a block job or a running backup is busy under whatever number libvirt says it', () => {
  assert.equal(codeOf(84, "Operation not supported: disk 'vda' has a blockjob assigned"), 'DOMAIN_BUSY');
  assert.equal(codeOf(67, "unsupported configuration: block job is already active on disk 'vda'"), 'DOMAIN_BUSY');
  assert.equal(codeOf(55, 'Requested operation is not valid: another job is active'), 'DOMAIN_BUSY');
  assert.equal(codeOf(68, 'Timed out during operation: cannot acquire state change lock'), 'DOMAIN_BUSY');
});

test('a name that is taken is DOMAIN_EXISTS', () => {
  assert.equal(codeOf(9, "operation failed: domain 'a' already exists with uuid 0cc49e4c"), 'DOMAIN_EXISTS');
  assert.equal(codeOf(9, 'operation failed: something else'), 'LIBVIRT_FAILED');
});

test('any failure while opening is a failed connect, unless access was denied', () => {
  assert.equal(codeOf(38, 'Failed to connect socket', { operation: 'open' }), 'LIBVIRT_CONNECT_FAILED');
  assert.equal(codeOf(9, 'operation failed', { operation: 'open' }), 'LIBVIRT_CONNECT_FAILED');
  assert.equal(codeOf(45, 'authentication failed', { operation: 'open' }), 'LIBVIRT_DENIED');
});

test('on a dead connection the connection is the reason, whatever the number', () => {
  assert.equal(codeOf(1, 'internal error: client socket is closed', { isAlive: false }), 'LIBVIRT_CONNECTION_LOST');
  assert.equal(codeOf(42, 'no domain', { isAlive: false }), 'LIBVIRT_CONNECTION_LOST');
});

test('what the guest agent does wrong is told apart from what libvirt does wrong', () => {
  const agent = { operation: 'fsFreeze' };
  assert.equal(codeOf(86, 'Guest agent is not responding', agent), 'AGENT_UNAVAILABLE');
  assert.equal(codeOf(74, 'argument unsupported: QEMU guest agent is not configured', agent), 'AGENT_UNAVAILABLE');
  assert.equal(codeOf(111, 'guest agent command timed out', agent), 'AGENT_TIMED_OUT');
  assert.equal(codeOf(1, "unable to execute QEMU agent command 'guest-fsfreeze-freeze'", agent), 'AGENT_FAILED');
  assert.equal(codeOf(55, 'domain is not running', agent), 'DOMAIN_WRONG_STATE');
});

test("an error carries libvirt's number, domain, level, operation and subject", () => {
  const error = toApplianceError(
    { code: 42, domain: 10, level: 2, message: 'Domain not found' },
    { operation: 'lookup', isAlive: true, subject: 'web' },
  );
  assert.deepEqual(
    { code: error.code, message: error.message, details: error.details },
    {
      code: 'DOMAIN_NOT_FOUND',
      message: 'lookup: Domain not found',
      details: { libvirtCode: 42, domain: 10, level: 2, operation: 'lookup', subject: 'web' },
    },
  );
});
