// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describeRoute } from '../../../appliance/api/openapi/route-description.ts';
import { OPERATION_ROUTES } from '../../../appliance/api/operation-routes.ts';
import { suite } from '../../support/suite.ts';

const test = suite('descriptions of routes');

test('they say which role is needed, and what a run is', () => {
  const text = describeRoute(OPERATION_ROUTES.backup);
  assert.match(text, /^Needs the role `operator` at least\./);
  assert.match(text, /the answer is the run/);
  assert.doesNotMatch(text, /restorer|second person/);
});

test('they say what cannot be taken back, always or with which parameters', () => {
  assert.match(describeRoute(OPERATION_ROUTES.delete), /It cannot be taken back: `admin` only/);
  assert.match(describeRoute(OPERATION_ROUTES.restore), /With `inPlace` it cannot be taken back/);
});

test('they say what a restorer may do', () => {
  assert.match(describeRoute(OPERATION_ROUTES.points), /A `restorer` sees what belongs to the machines/);
  assert.match(
    describeRoute({
      http: 'POST /x',
      kind: 'change',
      needs: 'operator',
      restorer: { parameter: 'point', means: 'state', also: ['as', 'name'], must: ['as'] },
      summary: 'X',
    }),
    /with `point`, `as` and `name` only, and has to give `as`\.$/,
  );
  assert.equal(
    describeRoute({ http: 'GET /x', kind: 'read', needs: 'viewer', restorer: { own: true }, summary: 'X' }),
    'For every role.',
  );
});

test('they say what needs a second person', () => {
  const text = describeRoute({ http: 'POST /x', kind: 'change', needs: 'admin', secondPerson: true, summary: 'X' });
  assert.match(text, /It needs a second person where that is asked for\.$/);
});
