// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { type FreezableGuest, withFrozenGuest } from '../../appliance/cbt/quiesce.ts';
import { ApplianceError, hasCode } from '../../appliance/core/errors.ts';
import { suite } from '../support/suite.ts';

const test = suite('frozen guests');

interface Agent {
  readonly freeze: () => number;
  readonly thaw: () => number;
}

class Scene {
  readonly calls: string[] = [];
  isMarked = false;
  readonly guest: FreezableGuest;

  constructor(agent: Agent) {
    const call = async (name: 'freeze' | 'thaw'): Promise<number> => {
      this.calls.push(name);
      return agent[name]();
    };
    this.guest = { name: 'web', fsFreeze: () => call('freeze'), fsThaw: () => call('thaw') };
  }

  get marker(): Parameters<typeof withFrozenGuest>[1] {
    return {
      set: async () => {
        this.isMarked = true;
      },
      clear: async () => {
        this.isMarked = false;
      },
    };
  }
}

function failing(code: 'AGENT_UNAVAILABLE' | 'AGENT_TIMED_OUT' | 'DOMAIN_BUSY'): () => never {
  return () => {
    throw new ApplianceError(code, `told: ${code}`);
  };
}

test('the guest is frozen for the action only, and the note of it is gone afterwards', async () => {
  const scene = new Scene({ freeze: () => 2, thaw: () => 2 });
  const { result, isFrozen, notices } = await withFrozenGuest(scene.guest, scene.marker, async () => {
    scene.calls.push('action');
    assert.ok(scene.isMarked);
    return 7;
  });
  assert.deepEqual([result, isFrozen, notices], [7, true, []]);
  assert.deepEqual(scene.calls, ['freeze', 'action', 'thaw']);
  assert.ok(!scene.isMarked);
});

test('file systems that thawed before their time are not called consistent', async () => {
  const scene = new Scene({ freeze: () => 2, thaw: () => 0 });
  const { isFrozen, notices } = await withFrozenGuest(scene.guest, scene.marker, async () => undefined);
  assert.equal(isFrozen, false);
  assert.match(notices.join(), /only 0 of 2/);
});

test('a freeze that failed is thawed all the same, and the action takes place', async () => {
  const scene = new Scene({ freeze: failing('AGENT_TIMED_OUT'), thaw: () => 3 });
  const { isFrozen, notices } = await withFrozenGuest(scene.guest, scene.marker, async () => undefined);
  assert.equal(isFrozen, false);
  assert.match(notices.join(), /were not frozen/);
  assert.deepEqual(scene.calls, ['freeze', 'thaw']);
  assert.ok(!scene.isMarked);
});

test('when the action fails and the guest cannot be thawed, the error says both, and the note of it stays', async () => {
  const scene = new Scene({ freeze: () => 1, thaw: failing('AGENT_TIMED_OUT') });
  const run = withFrozenGuest(scene.guest, scene.marker, async () => failing('DOMAIN_BUSY')());
  await assert.rejects(run, (error) => {
    assert.ok(hasCode(error, 'DOMAIN_BUSY'));
    assert.match(error.message, /told: DOMAIN_BUSY; the guest web may still be frozen/);
    return true;
  });
  assert.ok(scene.isMarked);
});

test('a note that cannot be removed does not lose what the action made', async () => {
  const scene = new Scene({ freeze: () => 1, thaw: () => 1 });
  const marker = { set: () => scene.marker.set(), clear: failing('DOMAIN_BUSY') };
  const { result, notices } = await withFrozenGuest(scene.guest, marker, async () => 'a running job');
  assert.equal(result, 'a running job');
  assert.match(notices.join(), /could not be removed/);
});
