// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';

export const MIN_PASSWORD_CHARACTERS = 12;
/** Longer ones would only be a way to keep the processor busy. */
export const MAX_PASSWORD_CHARACTERS = 256;

/** Distinct characters that a password has at least: `aaaaaaaaaaaa` is one guess. */
const MIN_DISTINCT_CHARACTERS = 5;

/** What is tried first among the passwords that are long enough; compared without case, spaces, digits at the end and punctuation. */
const COMMON = new Set([
  'password',
  'passwordpassword',
  'passwort',
  'passw0rd',
  'p@ssw0rd',
  'administrator',
  'adminadminadmin',
  'adminadmin',
  'changeme',
  'changemenow',
  'changemeplease',
  'letmein',
  'letmeinplease',
  'letmeinnow',
  'welcome',
  'welcometo',
  'iloveyou',
  'iloveyousomuch',
  'qwertyuiop',
  'qwertyuiopasdf',
  'qwertzuiop',
  'qwerty',
  'qwertyqwerty',
  'asdfghjkl',
  'asdfghjklqwerty',
  'zxcvbnm',
  'correcthorsebatterystaple',
  'trustno',
  'sunshine',
  'princess',
  'football',
  'baseball',
  'dragon',
  'monkey',
  'master',
  'superman',
  'batman',
  'computer',
  'internet',
  'secret',
  'secretsecret',
  'default',
  'defaultpassword',
  'mypassword',
  'nopassword',
  'thepassword',
  'backup',
  'backupbackup',
  'understudy',
  'understudyunderstudy',
  'understudybackup',
  'abcdefghijkl',
  'abcdefghijklmnop',
  'abcdefghijklmnopqrstuvwxyz',
  'abcabcabcabc',
  'testtesttest',
  'testpassword',
]);

const DIGIT_RUNS = ['01234567890123456789012345678901234567890', '98765432109876543210987654321098765432109'];

/**
 * Whether somebody may have this password: long enough, not the user's own name, not among the commonest. There are no rules about
 * kinds of characters: they make passwords worse (NIST SP 800-63B, section 3.1.1.2).
 * @throws BAD_ARGUMENT, which never holds the password
 */
export function checkPassword(password: string, userName: string): void {
  const characters = Array.from(password.normalize('NFKC'));
  if (characters.length < MIN_PASSWORD_CHARACTERS) {
    throw refused(`the password has fewer than ${MIN_PASSWORD_CHARACTERS} characters`);
  }
  if (characters.length > MAX_PASSWORD_CHARACTERS) {
    throw refused(`the password has more than ${MAX_PASSWORD_CHARACTERS} characters`);
  }
  const lower = characters.join('').toLowerCase();
  const bare = lower.replaceAll(/[\s\p{P}\p{S}]/gu, '');
  const name = userName.toLowerCase();
  const isName = name.length >= 3 && lower.includes(name) && lower.length - name.length < MIN_PASSWORD_CHARACTERS - 2;
  if (isName) throw refused('the password is made from the name of the user');
  const isRun = /^\d+$/.test(bare) && DIGIT_RUNS.some((run) => run.includes(bare));
  const isCommon = [lower, bare, bare.replace(/\d+$/, ''), lower.replace(/[^\p{L}]+$/u, '')].some((form) =>
    COMMON.has(form),
  );
  if (isCommon || isRun || new Set(lower).size < MIN_DISTINCT_CHARACTERS) {
    throw refused('the password is one of those that are tried first');
  }
}

function refused(why: string): ApplianceError {
  return new ApplianceError('BAD_ARGUMENT', why, {
    hint: 'Use several words that do not belong together, or let a password manager make one.',
  });
}
