// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, hasCode, systemErrorCode, toError } from '../../core/errors.ts';
import { controlSocketPath, isListening } from '../control-socket.ts';
import { API_ROOT } from '../operation-routes.ts';
import type { ServiceHealth } from '../service-health.ts';
import { type Endpoint, LocalEndpoint } from './endpoint.ts';
import { jsonAnswer } from './json-answer.ts';

/** The service answers this from memory; a longer silence means that it hangs. */
const HEALTH_LIMIT_MS = 10_000;

/** A small answer; more than this is not from our service. */
const MAX_HEALTH_BYTES: number = 64 * 1024;

/**
 * The service of the state directory, or undefined when none listens.
 *
 * @throws TIMED_OUT when it listens and does not answer; SERVICE_UNREACHABLE when it may not be asked, or is of a version that
 *   cannot be
 */
export async function findService(stateDirectory: string): Promise<ServiceHealth | undefined> {
  const path = controlSocketPath(stateDirectory);
  const endpoint = new LocalEndpoint(stateDirectory);
  try {
    return (await isListening(path)) ? await askHealth(endpoint) : undefined;
  } catch (thrown) {
    if (hasCode(thrown, 'TIMED_OUT') || hasCode(thrown, 'SERVICE_UNREACHABLE')) throw thrown;
    const error = toError(hasCode(thrown, 'IO_FAILED') ? thrown.cause : thrown);
    if (systemErrorCode(error) === 'EACCES') throw endpoint.describe(error, 'connecting');
    // It may have ended between the two connections.
    if (!(await isListening(path))) return undefined;
    throw endpoint.describe(error, 'a question for its health');
  }
}

/** What a service is. @throws TIMED_OUT; SERVICE_UNREACHABLE for one of another kind; its refusal; what broke the connection */
export async function askHealth(endpoint: Endpoint): Promise<ServiceHealth> {
  const outgoing = endpoint.send({ method: 'GET', path: `${API_ROOT}/service` });
  const limit = setTimeout(() => {
    const seconds = HEALTH_LIMIT_MS / 1000;
    const message = `the service on ${endpoint.name} listens, but has not answered for ${seconds} s`;
    outgoing.destroy(new ApplianceError('TIMED_OUT', message, { details: { service: endpoint.name } }));
  }, HEALTH_LIMIT_MS);
  try {
    return (await jsonAnswer(outgoing, MAX_HEALTH_BYTES)).value as ServiceHealth;
  } catch (error) {
    if (!hasCode(error, 'INTERNAL') && !hasCode(error, 'PATH_UNKNOWN')) throw error;
    throw new ApplianceError('SERVICE_UNREACHABLE', `what listens on ${endpoint.name} is of another version`, {
      cause: error,
      hint: 'Restart it with this version of the program: end it with SIGTERM, once.',
    });
  } finally {
    clearTimeout(limit);
  }
}

/** The version of a service in the network; what it lets nobody else know is not asked for. Errors as `askHealth`, and its refusals. */
export async function askVersion(endpoint: Endpoint): Promise<string> {
  try {
    return (await askHealth(endpoint)).version;
  } catch (error) {
    if (error instanceof ApplianceError) throw error;
    throw endpoint.describe(toError(error), 'the first request');
  }
}

/**
 * Asks the service to end, as SIGTERM does; it has not ended yet when this settles.
 * @throws SERVICE_UNREACHABLE when it does not listen, ended before it answered, or is of a version that cannot be asked
 */
export async function askToStop(stateDirectory: string): Promise<void> {
  const endpoint = new LocalEndpoint(stateDirectory);
  try {
    await jsonAnswer(endpoint.send({ method: 'POST', path: `${API_ROOT}/service/stop` }));
  } catch (error) {
    if (!(error instanceof ApplianceError)) throw endpoint.describe(toError(error), 'the request to end');
    const message = `the service on ${stateDirectory} cannot be asked to end: ${error.message}`;
    throw new ApplianceError('SERVICE_UNREACHABLE', message, {
      cause: error,
      hint: 'End it with SIGTERM, once.',
    });
  }
}
