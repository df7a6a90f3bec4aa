// SPDX-License-Identifier: Apache-2.0
import type { Role } from '../../access/principal.ts';
import { EVENT_TYPES } from '../events/event-types.ts';
import { API_ROOT } from '../operation-routes.ts';
import { type MustBeTrue, type Same, type Static, type TSchema, Type } from '../schemas/type.ts';
import { list, maybe, oneOf, params, report, text, time, word } from '../schemas/vocabulary.ts';
import type { ServiceHealth } from '../service-health.ts';
import { LOGIN_ROUTES } from './login-routes.ts';
import type { Members } from './parameters.ts';
import type { JsonObject } from './schema-components.ts';

export interface ExtraReply {
  readonly description: string;
  /** Without one there is no body. */
  readonly schema?: TSchema;
  /** Default: JSON. */
  readonly type?: string;
}

/** A route that is not an operation. A test compares the table with what the server answers. */
export interface ExtraRoute {
  /** Method and whole path; parameters as in `OperationRoute`. */
  readonly http: `${'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'} /${string}`;
  readonly id: string;
  readonly tag: string;
  readonly needs: 'public' | 'anybody' | Exclude<Role, 'restorer'>;
  readonly summary: string;
  readonly description?: string;
  readonly params?: Members;
  /** Header parameters, as OpenAPI writes them. */
  readonly headers?: readonly JsonObject[];
  readonly replies: { readonly [status: number]: ExtraReply };
}

const EVENTS = 'text/event-stream';

const lastEventId: JsonObject = {
  name: 'Last-Event-ID',
  in: 'header',
  description: 'The id of the last event that was seen: those since are sent first.',
  schema: { type: 'string' },
};

const serviceHealth = report('ServiceHealth', {
  pid: Type.Integer(),
  version: text(),
  state: text('The state directory.'),
  phase: oneOf(['serving', 'stopping']),
  startedAt: time(),
  running: list(text(), 'Operations that run now, by name.'),
});

export type ServiceProof = MustBeTrue<Same<Static<typeof serviceHealth>, ServiceHealth>>;

const readiness = report('Readiness', {
  status: oneOf(['ready', 'not ready']),
  problems: maybe(list(text(), 'Why it is not ready; for a viewer at least.')),
});

export const EXTRA_ROUTES: readonly ExtraRoute[] = [
  {
    http: 'GET /health/live',
    id: 'healthLive',
    tag: 'health',
    needs: 'public',
    summary: 'The process answers',
    replies: { 200: { description: 'It does.', schema: Type.Object({ status: Type.Literal('live') }) } },
  },
  {
    http: 'GET /health/ready',
    id: 'healthReady',
    tag: 'health',
    needs: 'public',
    summary: 'The appliance can work',
    replies: {
      200: { description: 'It can.', schema: readiness },
      503: { description: 'It cannot: it stops, or cannot reach its repository.', schema: readiness },
    },
  },
  {
    http: 'GET /metrics',
    id: 'metrics',
    tag: 'health',
    needs: 'viewer',
    summary: 'Metrics, for Prometheus',
    description:
      'For a `viewer`, unless the setting `metrics.public` lets everybody read them. docs/metrics.md names them all.',
    replies: { 200: { description: 'Now.', type: 'text/plain', schema: Type.String() } },
  },
  {
    http: `GET ${API_ROOT}/service`,
    id: 'service',
    tag: 'health',
    needs: 'viewer',
    summary: 'The process, and what it works on',
    replies: { 200: { description: 'Now.', schema: serviceHealth } },
  },
  {
    http: `GET ${API_ROOT}/events`,
    id: 'events',
    tag: 'events',
    needs: 'anybody',
    summary: 'What happens, as it happens',
    description:
      'Server-sent events. A `run` holds the summary of a run, with its progress; the other types say that something of the kind ' +
      'has changed. Each has an id; a client that comes back with the last one gets those it missed, or a `reset` when they are ' +
      'not known any more: then it has to ask for everything again. A `restorer` hears of the machines that were named for it.',
    params: params({
      type: maybe(word(`Only events of these types, with commas between: ${EVENT_TYPES.join(', ')}.`)),
    }),
    headers: [lastEventId],
    replies: { 200: { description: 'Until one side ends it.', type: EVENTS, schema: Type.String() } },
  },
  {
    http: `GET ${API_ROOT}/runs/:id/events`,
    id: 'runEvents',
    tag: 'runs',
    needs: 'anybody',
    summary: 'One run, as it goes on',
    description: 'Server-sent events: `run`, `notice` and `progress`; the last one is the `run` at its end.',
    params: params({ id: word('Of a run, or its beginning.') }),
    replies: { 200: { description: 'Until the run has ended.', type: EVENTS, schema: Type.String() } },
  },
  {
    http: `GET ${API_ROOT}/exports/:id/hold`,
    id: 'exportHold',
    tag: 'exports',
    needs: 'operator',
    summary: 'Keep an export for as long as this is open',
    description: 'Server-sent events: a `held`. The export ends with the connection.',
    params: params({ id: word('Of the export.') }),
    replies: { 200: { description: 'Until one side ends it.', type: EVENTS, schema: Type.String() } },
  },
  {
    http: `GET ${API_ROOT}/openapi.json`,
    id: 'openapi',
    tag: 'documentation',
    needs: 'public',
    summary: 'This document',
    replies: { 200: { description: 'OpenAPI 3.1.', schema: Type.Record(Type.Unknown()) } },
  },
  {
    http: `GET ${API_ROOT}/docs`,
    id: 'docs',
    tag: 'documentation',
    needs: 'public',
    summary: 'This document, for people',
    replies: { 200: { description: 'A page.', type: 'text/html', schema: Type.String() } },
  },
  ...LOGIN_ROUTES,
];
