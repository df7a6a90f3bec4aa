// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { hashOfNobody, hashPassword, isStale, verifyPassword } from '../../appliance/access/password-hash.ts';
import { checkPassword } from '../../appliance/access/password-rules.ts';
import { Turns } from '../../appliance/access/turns.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const CHEAP = { memoryKib: 64, passes: 1, parallelism: 1 } as const;
const test = suite('passwords');

test('a password verifies against its own hash only, and two hashes of it differ', async () => {
  const [one, other] = await Promise.all([
    hashPassword('tangerine ladder', CHEAP),
    hashPassword('tangerine ladder', CHEAP),
  ]);
  assert.match(one, /^\$argon2id\$v=19\$m=64,t=1,p=1\$/);
  assert.notEqual(one, other);
  assert.equal(await verifyPassword('tangerine ladder', one), true);
  assert.equal(await verifyPassword('tangerine laddes', one), false);
  assert.equal(one.includes('tangerine'), false);
});

test('the hash is what RFC 9106 says: a published value verifies', async () => {
  // The reference implementation's own test: argon2id, version 0x13, t=2, m=2^16, p=1, "password", "somesalt".
  const hash = '$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc';
  assert.equal(await verifyPassword('password', hash), true);
  assert.equal(await verifyPassword('passwore', hash), false);
});

test('a password typed in another normal form of Unicode is the same', async () => {
  const hash = await hashPassword('caf\u00e9 au lait forte', CHEAP);
  assert.equal(await verifyPassword('cafe\u0301 au lait forte', hash), true);
});

test('a hash with other parameters is stale, and still verifies', async () => {
  const hash = await hashPassword('tangerine ladder', CHEAP);
  assert.equal(isStale(hash, CHEAP), false);
  assert.equal(isStale(hash, { ...CHEAP, passes: 2 }), true);
});

test('nobody has the password of nobody', async () => {
  assert.equal(await verifyPassword('', hashOfNobody(CHEAP)), false);
});

test('a stored hash that asks for too much memory, or is none, is refused', async () => {
  const salt = 'c29tZXNhbHQ';
  const tag = 'CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc';
  for (const hash of [
    'plain',
    `$argon2id$v=19$m=9999999,t=1,p=1$${salt}$${tag}`,
    `$argon2id$v=19$m=64,t=0,p=1$${salt}$${tag}`,
    `$argon2id$v=19$m=4,t=1,p=1$${salt}$${tag}`,
    `$argon2i$v=19$m=64,t=1,p=1$${salt}$${tag}`,
  ]) {
    await rejectsWith(verifyPassword('x', hash), 'BAD_ARGUMENT');
  }
});

test('short, long, common passwords, and those made from the name are refused', () => {
  const refused = [
    'short',
    'elevenchars',
    'x'.repeat(257),
    'aaaaaaaaaaaaaaa',
    'passwordpassword',
    'Password 123456',
    'P@ssw0rd!P@ssw0rd!'.slice(0, 8).padEnd(12, '1'),
    'correct horse battery staple',
    '123456789012',
    'qwertyuiop12',
    'christopher1',
    'administrator',
  ];
  for (const password of refused) {
    assert.throws(() => checkPassword(password, 'christopher'), { code: 'BAD_ARGUMENT' }, password);
  }
});

test('what is refused is not repeated in the error', () => {
  assert.throws(
    () => checkPassword('elevenchars', 'eve'),
    (error: Error) => !JSON.stringify(error).includes('elevenchars') && !error.message.includes('elevenchars'),
  );
});

test('any other password will do, whatever characters it has', () => {
  for (const password of [
    'tangerine ladder',
    '猫が好きですからね本当にとても',
    'christopher and the seven dwarfs',
    'lllllk mnopq',
  ]) {
    checkPassword(password, 'christopher');
  }
});

test('a limited number works at a time, others wait, more are refused', async () => {
  const turns = new Turns({ atOnce: 2, waiting: 1 });
  const gate = Promise.withResolvers<void>();
  let atOnce = 0;
  let most = 0;
  const work = async (): Promise<void> => {
    atOnce += 1;
    most = Math.max(most, atOnce);
    await gate.promise;
    atOnce -= 1;
  };
  const running = [turns.run(work), turns.run(work), turns.run(work)];
  await rejectsWith(turns.run(work), 'LOGIN_LIMITED');
  gate.resolve();
  await Promise.all(running);
  assert.equal(most, 2);
  await turns.run(work);
});
