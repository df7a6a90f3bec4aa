// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from './errors.ts';

/** Longest name of a bookmark, in characters. */
const MAX_BOOKMARK_NAME = 200;

/** What somebody can be shown, and type again. @throws ApplianceError BAD_ARGUMENT */
export function checkBookmarkName(name: string): void {
  if (name.trim().length === 0 || name.length > MAX_BOOKMARK_NAME) {
    throw new ApplianceError('BAD_ARGUMENT', `a bookmark's name has 1 to ${MAX_BOOKMARK_NAME} characters`, {
      hint: 'Say what it is for: `understudy bookmark web "before the upgrade"`.',
    });
  }
  if (/[\p{Cc}\p{Cs}\u2028\u2029]/u.test(name)) {
    throw new ApplianceError('BAD_ARGUMENT', "a bookmark's name has no line breaks or other control characters");
  }
}
