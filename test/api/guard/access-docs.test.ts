// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { OPERATION_ROUTES, type OperationRoute } from '../../../appliance/api/operation-routes.ts';
import { suite } from '../../support/suite.ts';
import { tableBelow } from '../../tidy/source-tree.ts';

const test = suite('docs/access.md');

/** The row of an operation, as the page has it. */
function rowOf([name, route]: readonly [string, OperationRoute]): string[] {
  return [`\`${name}\``, leastRole(route), restorerOf(route), secondPerson(route)];
}

function leastRole({ needs, destroys }: OperationRoute): string {
  if (destroys === true) return 'admin';
  if (destroys === undefined || needs === 'admin') return needs;
  return `${needs}; admin with ${destroys.map((name) => `\`${name}\``).join(', ')}`;
}

function restorerOf({ restorer }: OperationRoute): string {
  if (restorer === undefined) return '–';
  if ('own' in restorer) return 'yes';
  if ('item' in restorer) return 'its machines';
  const also = (restorer.also ?? []).map((name) => `\`${name}\``);
  return `its machines${also.length === 0 ? '' : `, with ${also.join(', ')}`}`;
}

function secondPerson({ destroys, secondPerson: isAsked }: OperationRoute): string {
  if (isAsked === true || destroys === true) return 'yes';
  return destroys === undefined ? '–' : `with ${destroys.map((name) => `\`${name}\``).join(', ')}`;
}

test('the table of roles is the table of operations', () => {
  const rows = Object.entries(OPERATION_ROUTES).map(rowOf);
  const expected = rows.map((cells) => `| ${cells.join(' | ')} |`).sort();
  const found = tableBelow('docs/access.md', 'What each role may do').map((cells) => `| ${cells.join(' | ')} |`);
  assert.deepEqual([...found].sort(), expected, 'the rows of docs/access.md are those expected here');
});
