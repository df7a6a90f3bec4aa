// SPDX-License-Identifier: Apache-2.0
import { ERROR_CODES, type ErrorCode } from '../../core/error-codes.ts';
import type { WireError } from '../wire-error.ts';
import { type Immutable, type MustBeTrue, type Same, type Static, Type } from './type.ts';
import { count, report, text } from './vocabulary.ts';

/** Errors. */

const errorMembers = {
  code: Type.Unsafe<ErrorCode>(
    Type.Enum(Object.keys(ERROR_CODES), {
      description: 'What went wrong; docs/errors.md explains each.',
      title: 'ErrorCode',
    }),
  ),
  message: text('For people; it may change.'),
  hint: text('What can be done about it.'),
  details: Type.Record(Type.Unknown(), { description: 'What the message is about, for programs.' }),
} as const;

export const wireError = report(
  'OperationError',
  { ...errorMembers, exitCode: count('What a command that ends with it exits with.') },
  'What an operation failed with.',
);

export const problem = report(
  'Problem',
  {
    type: text('A URI that names the code.'),
    title: text('The code in words.'),
    status: count('The HTTP status.'),
    ...errorMembers,
    requestId: text('Names the request in the log of the service; also in the header `x-request-id`.'),
  },
  'Why a request failed: problem details (RFC 9457).',
);

export type Problem = Immutable<Static<typeof problem>>;

export type ErrorProofs = MustBeTrue<Same<Static<typeof wireError>, WireError>>;
