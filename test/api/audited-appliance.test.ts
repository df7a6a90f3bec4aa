// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { auditedAppliance } from '../../appliance/api/audited-appliance.ts';
import type { OperationContext } from '../../appliance/api/operations.ts';
import type { AuditEvent } from '../../appliance/audit/entry.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { FakeAppliance, type FakeBehaviour } from '../support/fake-appliance.ts';
import { fakeResults } from '../support/fake-results.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('audited appliance');

const principal = { kind: 'user', id: 'u1', name: 'Ada', role: 'admin', machines: null } as const;

test('a change has a start before it and an end after it; a read has nothing', async () => {
  const { appliance, events, context } = rig({});
  await appliance.points({}, context);
  await appliance.delete({ point: 'web@latest' }, context);
  assert.deepEqual(
    events.map(({ phase, action, target, outcome, start }) => ({ phase, action, target, outcome, start })),
    [
      { phase: 'started', action: 'delete', target: 'web@latest', outcome: null, start: undefined },
      { phase: 'ended', action: 'delete', target: 'web@latest', outcome: 'ok', start: 1 },
    ],
  );
  assert.deepEqual(events[0]?.who, { kind: 'user', id: 'u1', name: 'Ada', role: 'admin' });
  assert.deepEqual([events[0]?.from, events[0]?.requestId], ['192.0.2.1', 'req-7']);
});

test('what fails is recorded with its code, and who was kept from something as denied, reads too', async () => {
  const fail = (code: 'NO_SPACE' | 'FORBIDDEN') => () => Promise.reject(new ApplianceError(code, 'no'));
  const { appliance, events, context } = rig({
    backup: fail('NO_SPACE'),
    delete: fail('FORBIDDEN'),
    points: fail('FORBIDDEN'),
  });
  await rejectsWith(appliance.backup({ target: 'web' }, context), 'NO_SPACE');
  await rejectsWith(appliance.delete({ point: 'x' }, context), 'FORBIDDEN');
  await rejectsWith(appliance.points({}, context), 'FORBIDDEN');
  assert.deepEqual(
    events.filter(({ phase }) => phase !== 'started').map(({ action, outcome, code }) => [action, outcome, code]),
    [
      ['backup', 'failed', 'NO_SPACE'],
      ['delete', 'denied', 'FORBIDDEN'],
      ['points', 'denied', 'FORBIDDEN'],
    ],
  );
});

test('without a record nothing is done that an administrator is needed for, except for what frees space', async () => {
  const full = rig({}, () => new ApplianceError('NO_SPACE', 'the disk is full'));
  await rejectsWith(full.appliance.lock({ point: 'x', until: '2030-01-01' }, full.context), 'NO_SPACE');
  await rejectsWith(full.appliance.restore({ point: 'x', inPlace: true }, full.context), 'NO_SPACE');
  assert.deepEqual(full.fake.calls, []);
  assert.equal(await full.appliance.delete({ point: 'x' }, full.context), fakeResults.delete);
  assert.deepEqual(full.notices, ['delete is not in the audit log: the disk is full']);
  const broken = rig({}, () => new ApplianceError('IO_FAILED', 'broken'));
  await rejectsWith(broken.appliance.delete({ point: 'x' }, broken.context), 'IO_FAILED');
});

test('a machine is brought back although the log has no room, or is broken', async () => {
  for (const code of ['NO_SPACE', 'IO_FAILED'] as const) {
    const { appliance, context, notices } = rig({}, () => new ApplianceError(code, 'no'));
    assert.equal(await appliance.restore({ point: 'x', to: '/x' }, context), fakeResults.restore);
    assert.equal(await appliance.boot({ point: 'x' }, context), fakeResults.boot);
    assert.deepEqual(notices, ['restore is not in the audit log: no', 'boot is not in the audit log: no']);
  }
});

test('the result of what was done is given although its end cannot be recorded', async () => {
  const { appliance, context, notices } = rig({}, ({ phase }) =>
    phase === 'ended' ? new ApplianceError('IO_FAILED', 'broken') : undefined,
  );
  assert.equal(await appliance.gc({}, context), fakeResults.gc);
  assert.equal(notices.length, 1);
});

function rig(
  behaviour: FakeBehaviour,
  fault: (event: AuditEvent) => ApplianceError | undefined = () => undefined,
): {
  readonly appliance: ReturnType<FakeAppliance['asAppliance']>;
  readonly fake: FakeAppliance;
  readonly events: AuditEvent[];
  readonly notices: string[];
  readonly context: OperationContext;
} {
  const events: AuditEvent[] = [];
  const notices: string[] = [];
  const fake = new FakeAppliance(behaviour);
  const appliance = auditedAppliance(fake.asAppliance(), {
    record: async (event) => {
      const error = fault(event);
      if (error !== undefined) throw error;
      events.push(event);
      return { sequence: events.length };
    },
  });
  const context = {
    principal,
    requestId: 'req-7',
    address: '192.0.2.1',
    signal: new AbortController().signal,
    onProgress: () => undefined,
    onNotice: (sentence: string) => notices.push(sentence),
  };
  return { appliance, fake, events, notices, context };
}
