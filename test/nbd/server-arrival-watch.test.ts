// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { ArrivalWatch } from '../../appliance/nbd/server/arrival-watch.ts';
import { suite } from '../support/suite.ts';

const test = suite('nbd server, watch for arrivals');

/** A watch under a clock of the test's own, one turn of the event loop at a time. */
class Rig {
  nowMs = 0;
  turns: (() => void)[] = [];
  readonly watch = new ArrivalWatch({
    clock: { nowMs: () => 0, elapsedMs: () => this.nowMs },
    nextTurn: (turn) => this.turns.push(turn),
  });

  /** One request that comes so long after the last answer, and is answered at once. */
  request(afterMs: number): void {
    this.nowMs += afterMs;
    this.watch.arrived();
    this.watch.answered();
  }

  hits(count: number): void {
    for (let n = 0; n < count; n++) {
      this.request(0.1);
      this.turn(0);
    }
  }

  turn(afterMs: number): void {
    this.nowMs += afterMs;
    for (const turn of this.turns.splice(0)) turn();
  }
}

test('it begins after eight requests that came close behind their answers, and one turn is asked for at a time', () => {
  const rig = new Rig();
  rig.watch.arrived();
  rig.watch.answered();
  rig.hits(7);
  assert.equal(rig.watch.isWatching, false);
  rig.hits(5);
  assert.equal(rig.watch.isWatching, true);
  assert.equal(rig.turns.length, 1);
  rig.turn(0.1);
  assert.equal(rig.turns.length, 1);
});

test('it ends when the window is over', () => {
  const rig = new Rig();
  rig.hits(20);
  rig.turn(0.3);
  assert.equal(rig.watch.isWatching, true);
  rig.turn(0.11);
  assert.equal(rig.watch.isWatching, false);
  assert.equal(rig.turns.length, 0);
});

test('requests that come now and then never begin it, and end what lasts', () => {
  const rig = new Rig();
  for (let n = 0; n < 200; n++) rig.request(n % 2 === 0 ? 1 : 0.1);
  assert.equal(rig.watch.isWatching, false);
  rig.hits(40);
  assert.equal(rig.watch.isWatching, true);
  for (let n = 0; n < 13; n++) {
    assert.equal(rig.watch.isWatching, true);
    rig.request(1);
    rig.turn(0);
  }
  assert.equal(rig.watch.isWatching, false);
});

test('who needs the processor gets it: a turn that was held up ends it for 64 requests, the next one for twice as many', () => {
  const rig = new Rig();
  rig.hits(40);
  for (const rest of [64, 128, 256]) {
    assert.equal(rig.watch.isWatching, true);
    rig.turn(2.5);
    assert.equal(rig.watch.isWatching, false);
    rig.hits(rest - 1);
    assert.equal(rig.watch.isWatching, false);
    rig.hits(1);
  }
  assert.equal(rig.watch.isWatching, true);
});

test('requests that are not held up any more shorten the next rest again', () => {
  const rig = new Rig();
  rig.hits(40);
  rig.turn(2.5);
  rig.hits(64);
  // A rest would have 128 now, and 64 again after so many that were watched for.
  rig.hits(64);
  rig.turn(2.5);
  rig.hits(63);
  assert.equal(rig.watch.isWatching, false);
  rig.hits(1);
  assert.equal(rig.watch.isWatching, true);
});

test('on a processor that others keep busy nearly nothing is watched for', () => {
  const rig = new Rig();
  let watched = 0;
  for (let n = 0; n < 100_000; n++) {
    rig.request(0.1);
    if (rig.watch.isWatching) watched += 1;
    rig.turn(n % 20 === 0 ? 2.5 : 0);
  }
  assert.ok(watched < 2000, `${watched} of 100,000`);
});

test('on a processor that others need now and then most requests are watched for', () => {
  const rig = new Rig();
  let watched = 0;
  for (let n = 0; n < 100_000; n++) {
    rig.request(0.1);
    if (rig.watch.isWatching) watched += 1;
    rig.turn(n % 251 === 0 ? 2.5 : 0);
  }
  assert.ok(watched > 70_000, `${watched} of 100,000`);
});

test('requests that were sent without waiting for the answer never begin it', () => {
  const rig = new Rig();
  for (let n = 0; n < 100; n++) rig.request(0.01);
  assert.equal(rig.watch.isWatching, false);
});

test('requests beside one another end it', () => {
  const rig = new Rig();
  rig.hits(40);
  rig.watch.arrived();
  rig.watch.crowded();
  rig.watch.answered();
  rig.turn(0);
  assert.equal(rig.watch.isWatching, false);
  rig.hits(8);
  assert.equal(rig.watch.isWatching, true);
});

test('a request that takes long is not waited for in this way, and nothing goes on behind the end of a connection', () => {
  const rig = new Rig();
  rig.hits(20);
  rig.watch.arrived();
  rig.turn(0.2);
  rig.turn(0.3);
  assert.equal(rig.watch.isWatching, false);
  rig.watch.answered();
  assert.equal(rig.watch.isWatching, true);
  rig.watch.close();
  rig.turn(0.01);
  assert.equal(rig.watch.isWatching, false);
});
