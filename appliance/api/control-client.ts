// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, hasCode, systemErrorCode, toError } from '../core/errors.ts';
import { ControlCall, requestService, serviceGone } from './control-call.ts';
import { HEALTH_PATH, type ServiceHealth, STOP_PATH } from './control-protocol.ts';
import { controlSocketPath, isListening } from './control-socket.ts';
import type {
  Appliance,
  ExportReport,
  OperationContext,
  OperationName,
  OperationParams,
  OperationResult,
} from './operations.ts';

/** The service answers this from memory; a longer silence means that it hangs. */
const HEALTH_LIMIT_MS = 10_000;

const ACCEPTED = 202;

/** A small answer; more than this is not from our service. */
const MAX_HEALTH_BYTES = 64 * 1024;

type Operation<Name extends OperationName> = (
  params: OperationParams<Name>,
  context: OperationContext,
) => Promise<OperationResult<Name>>;

/**
 * The appliance in the service of a state directory. Every operation is one request; an export is held by its open request
 * and ends at the latest with `[Symbol.asyncDispose]`. Errors are those of the operation, and SERVICE_UNREACHABLE.
 */
export class RemoteAppliance implements Appliance {
  private readonly stateDirectory: string;
  private readonly exports = new Map<string, ControlCall>();

  constructor(stateDirectory: string) {
    this.stateDirectory = stateDirectory;
  }

  readonly status: Operation<'status'> = (params, context) => this.call('status', params, context);
  readonly capacity: Operation<'capacity'> = (params, context) => this.call('capacity', params, context);
  readonly machineList: Operation<'machineList'> = (params, context) => this.call('machineList', params, context);
  readonly machineShow: Operation<'machineShow'> = (params, context) => this.call('machineShow', params, context);
  readonly backup: Operation<'backup'> = (params, context) => this.call('backup', params, context);
  readonly protect: Operation<'protect'> = (params, context) => this.call('protect', params, context);
  readonly unprotect: Operation<'unprotect'> = (params, context) => this.call('unprotect', params, context);
  readonly protection: Operation<'protection'> = (params, context) => this.call('protection', params, context);
  readonly protectionPause: Operation<'protectionPause'> = (params, context) =>
    this.call('protectionPause', params, context);
  readonly protectionResume: Operation<'protectionResume'> = (params, context) =>
    this.call('protectionResume', params, context);
  readonly points: Operation<'points'> = (params, context) => this.call('points', params, context);
  readonly timeline: Operation<'timeline'> = (params, context) => this.call('timeline', params, context);
  readonly bookmark: Operation<'bookmark'> = (params, context) => this.call('bookmark', params, context);
  readonly writes: Operation<'writes'> = (params, context) => this.call('writes', params, context);
  readonly pointShow: Operation<'pointShow'> = (params, context) => this.call('pointShow', params, context);
  readonly boot: Operation<'boot'> = (params, context) => this.call('boot', params, context);
  readonly booted: Operation<'booted'> = (params, context) => this.call('booted', params, context);
  readonly rewind: Operation<'rewind'> = (params, context) => this.call('rewind', params, context);
  readonly stop: Operation<'stop'> = (params, context) => this.call('stop', params, context);
  readonly standbyCreate: Operation<'standbyCreate'> = (params, context) => this.call('standbyCreate', params, context);
  readonly standbyList: Operation<'standbyList'> = (params, context) => this.call('standbyList', params, context);
  readonly standbyRemove: Operation<'standbyRemove'> = (params, context) => this.call('standbyRemove', params, context);
  readonly standbyTest: Operation<'standbyTest'> = (params, context) => this.call('standbyTest', params, context);
  readonly failover: Operation<'failover'> = (params, context) => this.call('failover', params, context);
  readonly failoverUndo: Operation<'failoverUndo'> = (params, context) => this.call('failoverUndo', params, context);
  readonly failback: Operation<'failback'> = (params, context) => this.call('failback', params, context);
  readonly migrate: Operation<'migrate'> = (params, context) => this.call('migrate', params, context);
  readonly restore: Operation<'restore'> = (params, context) => this.call('restore', params, context);
  readonly check: Operation<'check'> = (params, context) => this.call('check', params, context);
  readonly catalogRebuild: Operation<'catalogRebuild'> = (params, context) =>
    this.call('catalogRebuild', params, context);
  readonly delete: Operation<'delete'> = (params, context) => this.call('delete', params, context);
  readonly undelete: Operation<'undelete'> = (params, context) => this.call('undelete', params, context);
  readonly hold: Operation<'hold'> = (params, context) => this.call('hold', params, context);
  readonly release: Operation<'release'> = (params, context) => this.call('release', params, context);
  readonly lock: Operation<'lock'> = (params, context) => this.call('lock', params, context);
  readonly retentionPreview: Operation<'retentionPreview'> = (params, context) =>
    this.call('retentionPreview', params, context);
  readonly retentionApply: Operation<'retentionApply'> = (params, context) =>
    this.call('retentionApply', params, context);
  readonly gc: Operation<'gc'> = (params, context) => this.call('gc', params, context);

  async export(params: OperationParams<'export'>, context: OperationContext): Promise<ExportReport> {
    const call = this.begin('export', params, context);
    const report = (await call.result) as ExportReport;
    this.exports.set(report.id, call);
    void call.ended.then(() => this.exports.delete(report.id));
    return report;
  }

  async unexport(params: OperationParams<'unexport'>, context: OperationContext): Promise<Record<string, never>> {
    const result = await this.call('unexport', params, context);
    await this.exportEnded(params.id);
    return result;
  }

  /** Resolves when the export does not live any more: it was ended, or the service went away. */
  async exportEnded(id: string): Promise<void> {
    await this.exports.get(id)?.ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const calls = [...this.exports.values()];
    for (const call of calls) call.close();
    await Promise.all(calls.map((call) => call.ended));
  }

  private async call<Name extends OperationName>(
    name: Name,
    params: OperationParams<Name>,
    context: OperationContext,
  ): Promise<OperationResult<Name>> {
    const call = this.begin(name, params, context);
    try {
      return (await call.result) as OperationResult<Name>;
    } finally {
      await call.ended;
    }
  }

  private begin(name: OperationName, params: unknown, context: OperationContext): ControlCall {
    if (context.signal.aborted) throw new ApplianceError('ABORTED', `${name} was interrupted`);
    return new ControlCall({ stateDirectory: this.stateDirectory, name, params, context });
  }
}

/**
 * The service of the state directory, or undefined when none listens.
 *
 * @throws TIMED_OUT when it listens and does not answer; SERVICE_UNREACHABLE when it may not be asked
 */
export async function findService(stateDirectory: string): Promise<ServiceHealth | undefined> {
  const path = controlSocketPath(stateDirectory);
  try {
    return (await isListening(path)) ? await askHealth(stateDirectory) : undefined;
  } catch (thrown) {
    if (hasCode(thrown, 'TIMED_OUT')) throw thrown;
    const error = toError(hasCode(thrown, 'IO_FAILED') ? thrown.cause : thrown);
    if (systemErrorCode(error) === 'EACCES') throw serviceGone({ error, stateDirectory, during: 'connecting' });
    // It may have ended between the two connections.
    if (!(await isListening(path))) return undefined;
    throw serviceGone({ error, stateDirectory, during: 'a question for its health' });
  }
}

/**
 * Asks the service to end, as SIGTERM does; it has not ended yet when this settles.
 * @throws SERVICE_UNREACHABLE when it does not listen, ended before it answered, or is of a version that cannot be asked
 */
export function askToStop(stateDirectory: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const outgoing = requestService(stateDirectory, { method: 'POST', path: STOP_PATH });
    outgoing.once('error', (error) => reject(serviceGone({ error, stateDirectory, during: 'the request to end' })));
    outgoing.once('response', (response) => {
      response.resume();
      if (response.statusCode === ACCEPTED) return resolve();
      const message = `the service on ${stateDirectory} cannot be asked to end (status ${response.statusCode})`;
      reject(new ApplianceError('SERVICE_UNREACHABLE', message, { hint: 'End it with SIGTERM, once.' }));
    });
  });
}

function askHealth(stateDirectory: string): Promise<ServiceHealth> {
  return new Promise((resolve, reject) => {
    const outgoing = requestService(stateDirectory, { method: 'GET', path: HEALTH_PATH });
    const limit = setTimeout(() => {
      const seconds = HEALTH_LIMIT_MS / 1000;
      const message = `the service on ${stateDirectory} listens, but has not answered for ${seconds} s`;
      outgoing.destroy(new ApplianceError('TIMED_OUT', message, { details: { stateDirectory } }));
    }, HEALTH_LIMIT_MS);
    outgoing.once('error', reject);
    outgoing.once('close', () => {
      clearTimeout(limit);
      reject(new Error('the connection was closed'));
    });
    outgoing.once('response', (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => {
        text += part;
        if (text.length > MAX_HEALTH_BYTES) outgoing.destroy(new Error('its answer is too long'));
      });
      response.once('error', reject);
      response.once('end', () => {
        try {
          resolve(JSON.parse(text) as ServiceHealth);
        } catch (error) {
          reject(toError(error));
        }
      });
    });
  });
}
