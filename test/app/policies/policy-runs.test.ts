// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { localPrincipal } from '../../../appliance/access/principal.ts';
import { RunService } from '../../../appliance/api/runs/run-service.ts';
import { performRun } from '../../../appliance/app/policies/policy-runs.ts';
import { ApplianceError } from '../../../appliance/core/errors.ts';
import { memoryRunRecords } from '../../support/memory-run-records.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { suite } from '../../support/suite.ts';

const test = suite('runs of policies');

/** Runs that go on until they are cancelled. */
function endlessRuns(): RunService {
  return new RunService({
    perform: (_operation, _params, { signal }) =>
      new Promise((_, reject) => {
        signal.addEventListener('abort', () => reject(new ApplianceError('ABORTED', 'interrupted')));
      }),
    records: memoryRunRecords(),
    onNotice: assert.fail,
    onDefect: assert.fail,
  });
}

const backup = { operation: 'backup', params: { target: 'web' }, machineId: 'a', principal: localPrincipal() } as const;

test('a run that somebody cancels is ABORTED', async () => {
  const runs = endlessRuns();
  const { signal } = new AbortController();
  const performing = performRun(runs, { ...backup, signal });
  const [run] = runs.live();
  await runs.cancel(run?.id ?? '', localPrincipal());
  await rejectsWith(performing, 'ABORTED');
});

test('a run that the end of the service cuts short is INTERRUPTED, when the policies end, and none begins any more', async () => {
  const runs = endlessRuns();
  const closing = new AbortController();
  const performing = performRun(runs, { ...backup, signal: closing.signal });
  assert.equal(await runs.stop({ deadlineMs: 10_000 }), true);
  const next = performRun(runs, { ...backup, signal: closing.signal });
  let isSettled = false;
  void Promise.allSettled([performing, next]).then(() => {
    isSettled = true;
  });
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(isSettled, false);
  closing.abort();
  await rejectsWith(performing, 'INTERRUPTED');
  await rejectsWith(next, 'INTERRUPTED');
});
