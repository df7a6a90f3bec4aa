// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check';
import { ApiContract, type ContractOperation, type Json } from './api-contract.ts';
import { type HostileRequest, hostileRequest } from './hostile-request.ts';
import { type Peer, sendRaw } from './raw-http.ts';

/** 5xx that are answers of their own, not failures of the service: what else may come is a defect. */
const DESIGNED_5XX: readonly number[] = [503];

export interface FuzzOptions {
  readonly peer: Peer;
  readonly document: Json;
  readonly seed: number;
  /** Requests of each operation. */
  readonly runs: number;
  /** Headers of every request, each a line. */
  readonly headers?: readonly string[];
  readonly isChosen?: (operation: ContractOperation) => boolean;
  /** Besides 503: other systems that are not there (502, 504), and a disk that is full (507). */
  readonly allowed5xx?: readonly number[];
  /** Texts that may be in no answer, unless they are in the request. */
  readonly forbidden?: readonly string[];
  /** Looked for after each request: what went wrong in the process of the server; empty when nothing. */
  readonly afterEach?: () => string;
}

export interface FuzzReport {
  readonly requests: number;
  /** How many answers had which status; 0 for connections that were closed without one. */
  readonly statuses: Readonly<Record<number, number>>;
}

/** Sends hostile requests for each operation of a document, one after the other. @throws with the first broken promise, shrunk */
export async function fuzzApi(options: FuzzOptions): Promise<FuzzReport> {
  const contract = new ApiContract(options.document);
  const statuses: Record<number, number> = {};
  let requests = 0;
  for (const operation of contract.operations.filter(options.isChosen ?? (() => true))) {
    const property = fc.asyncProperty(hostileRequest(contract, operation), async (request) => {
      requests += 1;
      const status = await judge(contract, options, request);
      statuses[status] = (statuses[status] ?? 0) + 1;
    });
    await fc.assert(property, {
      seed: options.seed,
      numRuns: options.runs,
      reporter: shortReport,
      interruptAfterTimeLimit: 300_000,
    });
  }
  return { requests, statuses };
}

async function judge(contract: ApiContract, options: FuzzOptions, request: HostileRequest): Promise<number> {
  const bytes = withHeaders(request.bytes, options.headers ?? []);
  const shown = `${request.operation.id}: ${JSON.stringify(bytes.toString('latin1').slice(0, 600))}`;
  const answer = await sendRaw(options.peer, bytes);
  const wrong = (what: string): Error => new Error(`${what}\n${shown}`);
  const after = options.afterEach?.() ?? '';
  if (after !== '') throw wrong(after);
  if (answer === 'hung') throw wrong('neither an answer nor an end of the connection');
  if (answer === 'nothing') return 0;
  const { status, headers, body, count, isStream, isCut } = answer;
  const leaked = (options.forbidden ?? []).find((text) => body.includes(text) && !shown.includes(text));
  if (leaked !== undefined) throw wrong(`${leaked} is in ${body.slice(0, 500)}`);
  const allowed = [...DESIGNED_5XX, ...(options.allowed5xx ?? [])];
  if (status >= 500 && !allowed.includes(status)) throw wrong(`${status} ${body.slice(0, 500)}`);
  if (count > 1) throw wrong(`${count} answers to one request`);
  if (request.isAmbiguous && status < 400) throw wrong(`${status} to a request whose end is ambiguous`);
  if (isStream || (isCut && request.isTooLong)) return status;
  const [type = ''] = (headers['content-type'] ?? '').split(';');
  const sent = request.bytes.toString('latin1');
  const isHead = sent.startsWith('HEAD ');
  const isOwn = sent.startsWith(`${request.operation.method} `);
  const defects = isHead
    ? []
    : contract.defects(isOwn ? operationOf(contract, request) : undefined, { status, type, body });
  if (defects.length > 0) throw wrong(`${status}: ${defects.join('; ')}`);
  if ('x-injected' in headers) throw wrong('a header from a parameter');
  return status;
}

/** What a request names may be another operation than it was made for: `/points/` is the list. */
function operationOf(contract: ApiContract, { bytes }: HostileRequest): ContractOperation | undefined {
  const [method = '', target = ''] = bytes.toString('latin1').split(' ', 2);
  const path = target.replace(/^http:\/\/x/, '').split(/[?#]/)[0] ?? '';
  const fitting = contract.operations.filter((one) => one.method === method && patternOf(one.template).test(path));
  return fitting.toSorted((left, right) => left.template.split('{').length - right.template.split('{').length)[0];
}

function patternOf(template: string): RegExp {
  return new RegExp(`^${template.replaceAll('.', '\\.').replace(/\{[A-Za-z]+\}/g, '[^/]*')}$`);
}

function withHeaders(bytes: Buffer, headers: readonly string[]): Buffer {
  if (headers.length === 0) return bytes;
  const end = bytes.indexOf('\r\n') + 2;
  return Buffer.concat([
    bytes.subarray(0, end),
    Buffer.from(`${headers.join('\r\n')}\r\n`, 'latin1'),
    bytes.subarray(end),
  ]);
}

/** Only what failed: the operation itself is long. */
function shortReport<T>({ failed, errorInstance, seed, counterexamplePath }: fc.RunDetails<T>): void {
  if (!failed) return;
  throw new Error(`${String(errorInstance)}\nseed ${seed}, path ${counterexamplePath}`);
}
