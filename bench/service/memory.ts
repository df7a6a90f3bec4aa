// SPDX-License-Identifier: Apache-2.0
import { readdirSync, readFileSync } from 'node:fs';
import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { controlSocketPath } from '../../appliance/api/control-socket.ts';
import { API_ROOT } from '../../appliance/api/operation-routes.ts';
import type { BlockDevice } from '../../appliance/block/block-device.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import type { Comparison } from '../comparison.ts';
import { ServiceProcess, UNATTENDED } from '../service-process.ts';
import { Seeded } from '../statistics.ts';
import { readPath } from './load.ts';
import { MACHINES, machineName } from './many-points.ts';
import { openLoop } from './open-loop.ts';
import type { ServiceRun } from './run.ts';

const MIB: number = 1024 ** 2;
const LIMIT_MIB = 1024;
const FILES_LIMIT = 2_000;
const READ_BYTES: number = 64 * 1024;

/** Many listeners to events, many exports that are read, and requests for all machines, at the same time. */
export async function memory(run: ServiceRun): Promise<Comparison[]> {
  const clients = run.amount(1000, 50);
  const exports = run.amount(100, 5);
  const seconds = run.amount(30, 3);
  const state = await run.state();
  await using stack = new AsyncDisposableStack();
  const service = stack.use(await ServiceProcess.start(state, { probeDirectory: run.workspace.probeDirectory }));
  run.say(`memory: ${exports} exports`);
  const devices: BlockDevice[] = [];
  for (let n = 0; n < exports; n++) {
    const point = `${machineName(n % MACHINES)}@latest`;
    const { uri, id } = await service.appliance.export({ point }, UNATTENDED);
    stack.adopt(await listen(state, `/exports/${id}/hold`), (stream) => void stream.destroy());
    devices.push(stack.use(await connectNbd(uri)));
  }
  run.say(`memory: ${clients} listeners to events`);
  const heard = { events: 0 };
  for (let n = 0; n < clients; n++) {
    stack.adopt(await listen(state, '/events', heard), (stream) => void stream.destroy());
  }
  run.say(`memory: reads for ${seconds} s`);
  const [read] = await Promise.all([
    readAll(devices, seconds),
    openLoop(state, { perSecond: 50, seconds, path: readPath }),
    changes(service, seconds),
  ]);
  const { pid } = service;
  const files = readdirSync(`/proc/${pid}/fd`).length;
  const peakKib = Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? Number.NaN);
  await stack.disposeAsync();
  const what = `${MACHINES} machines with ${run.points} points, ${exports} exports, ${clients} clients of events`;
  const remark = `${(read / MIB / seconds).toFixed(0)} MiB/s read from the exports, ${heard.events} events sent`;
  return [
    line(`memory of the service, ${what}`, { unit: 'MiB', sample: peakKib / 1024, limit: LIMIT_MIB, remark }),
    line('its open files', { unit: 'files', sample: files, limit: FILES_LIMIT, remark: '' }),
  ];
}

/** An open stream of events; settles when it has begun. */
function listen(state: string, path: string, heard: { events: number } = { events: 0 }): Promise<ClientRequest> {
  const { promise, resolve, reject } = Promise.withResolvers<ClientRequest>();
  const outgoing = request({ socketPath: controlSocketPath(state), path: `${API_ROOT}${path}`, agent: false });
  outgoing.on('response', (response: IncomingMessage) => {
    if (response.statusCode !== 200) return reject(new Error(`${path}: status ${response.statusCode}`));
    response.on('data', () => {
      heard.events += 1;
    });
    response.on('error', () => undefined);
    resolve(outgoing);
  });
  outgoing.on('error', reject);
  outgoing.end();
  return promise;
}

/** Reads random places of all devices until the time is over; bytes. */
async function readAll(devices: readonly BlockDevice[], seconds: number): Promise<number> {
  const endMs = systemClock.elapsedMs() + seconds * 1000;
  let bytes = 0;
  await Promise.all(
    devices.map(async (device, n) => {
      const random = new Seeded(n + 1);
      const into = Buffer.alloc(READ_BYTES);
      while (systemClock.elapsedMs() < endMs) {
        await device.read(random.below(device.sizeBytes / READ_BYTES) * READ_BYTES, into);
        bytes += READ_BYTES;
      }
    }),
  );
  return bytes;
}

/** What makes events: runs that begin and end. */
async function changes({ appliance }: ServiceProcess, seconds: number): Promise<void> {
  const endMs = systemClock.elapsedMs() + seconds * 1000;
  while (systemClock.elapsedMs() < endMs) await appliance.check({}, UNATTENDED);
}

function line(
  what: string,
  figures: {
    readonly unit: Comparison['unit'];
    readonly sample: number;
    readonly limit: number;
    readonly remark: string;
  },
): Comparison {
  const { unit, sample, limit, remark } = figures;
  const ours = { label: 'service', samples: [sample] };
  return { what, unit, ours, other: undefined, target: { kind: 'at most', limit }, remark };
}
