// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { LoginLimit, placeOfAddress } from '../../appliance/access/login-limit.ts';
import {
  formatToken,
  hashSecret,
  isSameText,
  isSecretOf,
  newId,
  newSecret,
  newTokenSecret,
  parseToken,
} from '../../appliance/access/secret-text.ts';
import { suite } from '../support/suite.ts';

class TestClock {
  timeMs = 1_000_000;
  nowMs(): number {
    return this.timeMs;
  }
  elapsedMs(): number {
    return this.timeMs;
  }
}

function waitOf(limit: LoginLimit, user: string, place: string): number {
  try {
    limit.attempt(user, place);
    return 0;
  } catch (error) {
    const { code, details } = error as { code: string; details: { retryAfterMs: number } };
    assert.equal(code, 'LOGIN_LIMITED');
    return details.retryAfterMs;
  }
}

const test = suite('limit of logins');

test('after five failures each further one waits twice as long, up to a quarter of an hour', () => {
  const clock = new TestClock();
  const limit = new LoginLimit(clock);
  for (let i = 0; i < 5; i += 1) assert.equal(waitOf(limit, 'ann', 'here'), 0);
  const waits: number[] = [];
  for (let i = 0; i < 12; i += 1) {
    const waitMs = waitOf(limit, 'ann', 'here');
    waits.push(waitMs);
    clock.timeMs += waitMs;
    assert.equal(waitOf(limit, 'ann', 'here'), 0);
  }
  assert.deepEqual(
    waits,
    [1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000, 900_000, 900_000],
  );
});

test('who fails elsewhere does not keep anybody from logging in, and neither does who asks while waiting', () => {
  const clock = new TestClock();
  const limit = new LoginLimit(clock);
  for (let i = 0; i < 100; i += 1) waitOf(limit, 'ann', 'elsewhere');
  assert.ok(waitOf(limit, 'ann', 'elsewhere') > 0);
  assert.equal(waitOf(limit, 'ann', 'here'), 0);
  assert.equal(waitOf(limit, 'bob', 'elsewhere'), 0);
  clock.timeMs += 1000;
  assert.equal(waitOf(limit, 'ann', 'elsewhere'), 0, 'refused attempts do not make the wait longer');
});

test('a success forgets the failures, and so does an hour', () => {
  const clock = new TestClock();
  const limit = new LoginLimit(clock);
  for (let i = 0; i < 5; i += 1) waitOf(limit, 'ann', 'here');
  limit.succeeded('Ann', 'here');
  assert.equal(limit.size, 0);
  for (let i = 0; i < 5; i += 1) waitOf(limit, 'ann', 'here');
  clock.timeMs += 3_600_001;
  for (let i = 0; i < 5; i += 1) assert.equal(waitOf(limit, 'ann', 'here'), 0);
});

test('what is remembered is bounded', () => {
  const limit = new LoginLimit(new TestClock());
  for (let i = 0; i < 25_000; i += 1) waitOf(limit, `user${i}`, 'here');
  assert.equal(limit.size, 20_000);
});

test('the addresses of one IPv6 network are one place, and a mapped IPv4 address is itself', () => {
  assert.equal(placeOfAddress('192.0.2.7'), '192.0.2.7');
  assert.equal(placeOfAddress('::ffff:192.0.2.7'), '192.0.2.7');
  assert.equal(placeOfAddress('2001:db8:0:1::5'), '2001:db8:0:1::/64');
  assert.equal(placeOfAddress('2001:0db8:0000:0001:ffff:1:2:3'), '2001:db8:0:1::/64');
  assert.equal(placeOfAddress('fe80::1%eth0'), 'fe80:0:0:0::/64');
  assert.equal(placeOfAddress('::1'), '0:0:0:0::/64');
});

test('a token is read back, and one that was mistyped is not', () => {
  const [id, secret] = [newId(), newTokenSecret()];
  const token = formatToken(id, secret);
  assert.match(token, /^ust_[0-9a-f]{88}$/);
  assert.deepEqual(parseToken(token), { id, secret });
  const wrong = token.replace(/.$/, (last) => (last === '0' ? '1' : '0'));
  for (const text of ['', 'ust_', wrong, token.toUpperCase(), `${token} `, token.slice(0, -1)]) {
    assert.equal(parseToken(text), undefined);
  }
});

test('a secret is known by its hash', () => {
  const secret = newSecret();
  assert.equal(secret.length, 43);
  assert.equal(isSecretOf(secret, hashSecret(secret)), true);
  assert.equal(isSecretOf(`${secret}x`, hashSecret(secret)), false);
  assert.equal(isSameText('abc', 'abc'), true);
  assert.equal(isSameText('abc', 'abcd'), false);
});
