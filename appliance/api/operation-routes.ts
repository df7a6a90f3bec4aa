// SPDX-License-Identifier: Apache-2.0
import type { Role } from '../access/principal.ts';
import { ACCESS_ROUTES } from './access-operation-routes.ts';
import { CONFIGURATION_ROUTES } from './configuration-operation-routes.ts';
import type { EventType } from './events/event-types.ts';
import type { OperationName } from './operations.ts';

/** Everything of the HTTP interface lies below this path. */
export const API_ROOT = '/api/v1';

type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

/** What a restorer gives to an operation, or sees of its result. Nothing but what is named here may be given. */
export type RestorerUse =
  /** This parameter names a machine, a state of one, a machine that runs from the appliance, or a run (also one that it started). */
  | {
      readonly parameter: string;
      readonly means: 'machine' | 'state' | 'booted' | 'run';
      /** What may be given besides, and of that what has to be. */
      readonly also?: readonly string[];
      readonly must?: readonly string[];
    }
  /** This member of a list's items is the id of a machine (or `point`, of a point of it); other items are left out. */
  | { readonly item: string; readonly also?: readonly string[] }
  /** It concerns only the one who asks. */
  | { readonly own: true };

/**
 * Where an operation stands in the HTTP interface, and who may use it: the one table from which server, client, access
 * and documentation are made. What an operation takes and gives stands in its schemas.
 */
export interface OperationRoute {
  /**
   * Method and path below `API_ROOT`. A part `:name` is the parameter of that name, percent-encoded; the parameters that
   * are not in the path are the query of GET and DELETE, and the JSON body of the others.
   */
  readonly http: `${Method} /${string}`;
  /**
   * `read` and `change` answer when they are done, with 200. A `run` takes its time: 202 with the run, which tells how far
   * it is and holds the result in the end.
   */
  readonly kind: 'read' | 'change' | 'run';
  /** The result is an array, which HTTP gives in pages, sorted and filtered by members of its items. */
  readonly isList?: true;
  /** The least role that may use it; a `restorer` only as below. */
  readonly needs: Exclude<Role, 'restorer'>;
  /** A restorer may use it, too, for the machines that were named for it; other machines do not exist for it. */
  readonly restorer?: RestorerUse;
  /**
   * Takes from somebody what cannot be brought back: needs `admin`, and a second person where that is asked for. `true`, or the
   * parameters whose presence (and not being false) makes it so.
   */
  readonly destroys?: true | readonly string[];
  /** Changes who may do what: where destructive acts need a second person, this does, too. */
  readonly secondPerson?: true;
  /** What listeners to events are told to have changed when it has ended. */
  readonly changes?: readonly EventType[];
  /** Longest body of its request; that of the server when left out. */
  readonly maxBodyBytes?: number;
  /** Parameters that are neither logged nor kept. */
  readonly secrets?: readonly string[];
  /** A sentence without a full stop, for the documentation of the interface. */
  readonly summary: string;
}

/** The operations, by name. */
export const OPERATION_ROUTES: { readonly [Name in OperationName]: OperationRoute } = {
  status: { http: 'GET /repository', kind: 'read', needs: 'viewer', summary: 'What the repository holds' },
  capacity: {
    http: 'GET /repository/capacity',
    kind: 'read',
    needs: 'viewer',
    summary: 'How much room the repository has left, and for how long',
  },
  machineList: {
    http: 'GET /machines',
    kind: 'read',
    isList: true,
    needs: 'viewer',
    restorer: { item: 'id' },
    summary: 'The machines of a hypervisor',
  },
  machineShow: {
    http: 'GET /machines/:name',
    kind: 'read',
    needs: 'viewer',
    restorer: { parameter: 'name', means: 'machine' },
    summary: 'One machine, with what a recovery point of it does not contain',
  },
  backup: {
    http: 'POST /backups',
    kind: 'run',
    changes: ['points'],
    needs: 'operator',
    summary: 'Take a recovery point',
  },
  protect: {
    http: 'PUT /protection/:target',
    kind: 'run',
    changes: ['protection'],
    needs: 'operator',
    summary: 'Protect a machine continuously',
  },
  unprotect: {
    http: 'DELETE /protection/:name',
    kind: 'run',
    changes: ['protection', 'points'],
    needs: 'admin',
    summary: 'End continuous protection',
  },
  protection: {
    http: 'GET /protection',
    kind: 'read',
    isList: true,
    needs: 'viewer',
    restorer: { item: 'machineId' },
    summary: 'The machines under continuous protection',
  },
  protectionPause: {
    http: 'POST /protection/:name/pause',
    kind: 'change',
    changes: ['protection'],
    needs: 'operator',
    summary: 'Let another tool have a protected machine',
  },
  protectionResume: {
    http: 'POST /protection/:name/resume',
    kind: 'change',
    changes: ['protection'],
    needs: 'operator',
    summary: 'Take it up again',
  },
  points: {
    http: 'GET /points',
    kind: 'read',
    isList: true,
    needs: 'viewer',
    restorer: { item: 'machineId' },
    summary: 'The recovery points',
  },
  pointShow: {
    http: 'GET /points/:point',
    kind: 'read',
    needs: 'viewer',
    restorer: { parameter: 'point', means: 'state' },
    summary: 'One recovery point, or a moment',
  },
  timeline: {
    http: 'GET /machines/:machine/timeline',
    kind: 'read',
    needs: 'viewer',
    restorer: { parameter: 'machine', means: 'machine', also: ['from', 'to'] },
    summary: 'Points, stretches, gaps and bookmarks of a machine',
  },
  writes: {
    http: 'GET /machines/:machine/writes',
    kind: 'read',
    needs: 'viewer',
    restorer: { parameter: 'machine', means: 'machine', also: ['around', 'within', 'disk', 'offset'] },
    summary: 'Which extents changed when',
  },
  bookmark: {
    http: 'POST /machines/:machine/bookmarks',
    kind: 'change',
    changes: ['protection'],
    needs: 'operator',
    restorer: { parameter: 'machine', means: 'machine', also: ['name'] },
    summary: 'Name this moment',
  },
  boot: {
    http: 'POST /booted',
    kind: 'run',
    changes: ['booted'],
    needs: 'operator',
    restorer: { parameter: 'point', means: 'state', also: ['as'] },
    summary: 'Start a machine from a state of it',
  },
  booted: {
    http: 'GET /booted',
    kind: 'read',
    isList: true,
    needs: 'viewer',
    restorer: { item: 'point' },
    summary: 'The machines that run from the appliance',
  },
  rewind: {
    http: 'POST /booted/rewind',
    kind: 'run',
    changes: ['booted'],
    needs: 'operator',
    summary: 'Give a booted machine back a state of its own history',
  },
  stop: {
    http: 'POST /booted/:name/stop',
    kind: 'run',
    changes: ['booted'],
    needs: 'operator',
    restorer: { parameter: 'name', means: 'booted' },
    summary: 'Stop a booted machine',
  },
  migrate: {
    http: 'POST /booted/:name/migrate',
    kind: 'run',
    changes: ['booted'],
    needs: 'operator',
    summary: 'Move a booted machine to storage of its own while it runs',
  },
  export: {
    http: 'POST /exports',
    kind: 'change',
    changes: ['exports'],
    needs: 'operator',
    summary: 'Serve a disk of a state over NBD',
  },
  unexport: {
    http: 'DELETE /exports/:id',
    kind: 'change',
    changes: ['exports'],
    needs: 'operator',
    summary: 'End an export',
  },
  exports: { http: 'GET /exports', kind: 'read', isList: true, needs: 'operator', summary: 'The exports that live' },
  restore: {
    http: 'POST /restores',
    kind: 'run',
    changes: ['machines'],
    needs: 'operator',
    restorer: { parameter: 'point', means: 'state', also: ['as'], must: ['as'] },
    destroys: ['inPlace'],
    summary: 'Restore a state to a file, a device, an NBD export, a new machine, or in place',
  },
  standbyCreate: {
    http: 'POST /standbys',
    kind: 'change',
    changes: ['standbys'],
    needs: 'operator',
    summary: 'Keep a spare of a machine',
  },
  standbyList: { http: 'GET /standbys', kind: 'read', isList: true, needs: 'viewer', summary: 'The spares' },
  standbyRemove: {
    http: 'DELETE /standbys/:name',
    kind: 'change',
    changes: ['standbys'],
    needs: 'operator',
    summary: 'Give a spare up',
  },
  standbyTest: {
    http: 'POST /standbys/:name/test',
    kind: 'run',
    changes: ['standbys'],
    needs: 'operator',
    summary: 'Start a spare for a moment, isolated, and look at it',
  },
  failover: {
    http: 'POST /standbys/:name/failover',
    kind: 'run',
    changes: ['standbys', 'machines'],
    needs: 'operator',
    summary: 'Let the spare take over',
  },
  failoverUndo: {
    http: 'DELETE /standbys/:name/failover',
    kind: 'change',
    changes: ['standbys'],
    needs: 'operator',
    summary: 'Give a failover up that has not taken over yet',
  },
  failback: {
    http: 'POST /standbys/:name/failback',
    kind: 'run',
    changes: ['standbys', 'machines'],
    needs: 'operator',
    summary: 'Return to the original with what changed',
  },
  check: {
    http: 'POST /repository/check',
    kind: 'run',
    changes: ['repository'],
    needs: 'operator',
    summary: 'Check the repository',
  },
  catalogRebuild: {
    http: 'POST /repository/catalog',
    kind: 'run',
    changes: ['repository', 'points'],
    needs: 'admin',
    summary: 'Make the catalog again from the repository alone',
  },
  delete: {
    http: 'DELETE /points/:point',
    kind: 'change',
    changes: ['points'],
    needs: 'admin',
    destroys: true,
    summary: 'Delete a recovery point',
  },
  undelete: {
    http: 'POST /points/:point/undelete',
    kind: 'change',
    changes: ['points'],
    needs: 'operator',
    summary: 'Bring a deleted recovery point back',
  },
  hold: {
    http: 'PUT /points/:point/hold',
    kind: 'change',
    changes: ['points'],
    needs: 'operator',
    summary: 'Keep a point from deletion',
  },
  release: {
    http: 'DELETE /points/:point/hold',
    kind: 'change',
    changes: ['points'],
    needs: 'admin',
    destroys: true,
    summary: 'End a hold',
  },
  lock: {
    http: 'PUT /points/:point/lock',
    kind: 'change',
    changes: ['points'],
    needs: 'admin',
    summary: 'Keep a point from deletion by anybody until a date',
  },
  retentionPreview: {
    http: 'GET /retention/preview',
    kind: 'read',
    needs: 'viewer',
    summary: 'Which points a rule keeps, and why',
  },
  retentionApply: {
    http: 'POST /retention/apply',
    kind: 'run',
    changes: ['points'],
    needs: 'admin',
    destroys: true,
    summary: 'Delete the points that a rule lets go',
  },
  policyList: { http: 'GET /policies', kind: 'read', isList: true, needs: 'viewer', summary: 'The policies' },
  policyShow: { http: 'GET /policies/:name', kind: 'read', needs: 'viewer', summary: 'One policy' },
  policyCreate: {
    http: 'POST /policies',
    kind: 'change',
    changes: ['policies'],
    needs: 'admin',
    destroys: ['shorten'],
    summary: 'Protect machines by a policy',
  },
  policySet: {
    http: 'PATCH /policies/:name',
    kind: 'change',
    changes: ['policies'],
    needs: 'admin',
    destroys: ['shorten'],
    summary: 'Change a policy',
  },
  policyEnable: {
    http: 'POST /policies/:name/enable',
    kind: 'change',
    changes: ['policies'],
    needs: 'admin',
    destroys: ['shorten'],
    summary: 'Let a policy work again',
  },
  policyDisable: {
    http: 'POST /policies/:name/disable',
    kind: 'change',
    changes: ['policies'],
    needs: 'admin',
    destroys: true,
    summary: 'Let a policy rest: what it protects is not protected any more',
  },
  policyDelete: {
    http: 'DELETE /policies/:name',
    kind: 'change',
    changes: ['policies'],
    needs: 'admin',
    destroys: true,
    summary: 'Delete a policy; the recovery points stay',
  },
  policyPreview: {
    http: 'GET /policies/:name/preview',
    kind: 'read',
    needs: 'viewer',
    summary: 'Which machines a policy catches, what it keeps, and when it runs next',
  },
  schedule: {
    http: 'GET /schedule',
    kind: 'read',
    needs: 'viewer',
    summary: 'What the policies do next, and why not now',
  },
  gc: {
    http: 'POST /repository/collection',
    kind: 'run',
    changes: ['repository'],
    needs: 'operator',
    destroys: ['now'],
    summary: 'Free the space of what is deleted',
  },
  runs: {
    http: 'GET /runs',
    kind: 'read',
    isList: true,
    needs: 'viewer',
    restorer: { item: 'machineId' },
    summary: 'What ran and what runs, newest first',
  },
  runShow: {
    http: 'GET /runs/:id',
    kind: 'read',
    needs: 'viewer',
    restorer: { parameter: 'id', means: 'run' },
    summary: 'One run, with its result',
  },
  runCancel: {
    http: 'POST /runs/:id/cancel',
    kind: 'change',
    needs: 'operator',
    summary: 'Stop a run at a safe place',
  },
  ...CONFIGURATION_ROUTES,
  ...ACCESS_ROUTES,
};

/** The least role for these parameters. */
export function neededRole(route: OperationRoute, params: Readonly<Record<string, unknown>>): Role {
  return destroys(route, params) ? 'admin' : route.needs;
}

/** Whether it takes something away with these parameters. */
export function destroys({ destroys: what }: OperationRoute, params: Readonly<Record<string, unknown>>): boolean {
  if (what === undefined) return false;
  return what === true || what.some((name) => params[name] !== undefined && params[name] !== false);
}

export function isOperationName(name: string): name is OperationName {
  return Object.hasOwn(OPERATION_ROUTES, name);
}

/** Parameters as they may be logged and kept. */
export function withoutSecrets(
  name: OperationName,
  params: Readonly<Record<string, unknown>>,
): Readonly<Record<string, unknown>> {
  const { secrets = [] } = OPERATION_ROUTES[name];
  return Object.fromEntries(Object.entries(params).filter(([member]) => !secrets.includes(member)));
}
