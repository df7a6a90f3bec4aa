// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { resolveTarget, restoreDisk } from '../../appliance/recover/restore-disk.ts';
import { StateDisks } from '../../appliance/recover/state-disks.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { noFreezes, noise, noJournals } from './fixture.ts';

/* A process that is killed in the middle of a restore: `node restore-victim.ts DIRECTORY TARGET` says `writing` when it is. */

const MIB = 1024 * 1024;
const SIZE_MIB = 48;

const [, , directory = '', to = ''] = process.argv;
const fixture = await FixtureRepository.create(directory);
const nbd = await NbdServer.listen({ listen: { kind: 'unix', path: join(directory, 'nbd.sock') } });
const device = memoryDevice({ sizeBytes: SIZE_MIB * MIB });
for (let at = 0; at < SIZE_MIB; at++) await device.write(at * MIB, noise(MIB, at + 1));
const point = await fixture.addPoint({ disks: { vda: device } });
const [disk] = point.disks;
if (disk === undefined) throw new Error('the point has a disk');
const parts = { repository: fixture.repository, journals: noJournals };
await restoreDisk({
  parts: {
    repository: fixture.repository,
    catalog: fixture.catalog,
    journals: noJournals,
    freezeMarker: noFreezes,
    nbd,
    clock: systemClock,
    runtimeDirectory: directory,
    stateDirectory: directory,
    connectLibvirt: (uri) => LibvirtConnection.open(uri),
  },
  disks: await StateDisks.open(parts, { point }),
  disk,
  target: await resolveTarget(to, undefined),
  context: {
    signal: new AbortController().signal,
    onProgress: ({ done }) => {
      if (done > MIB) process.stdout.write('writing\n');
    },
    onNotice: () => undefined,
  },
});
process.stdout.write('done\n');
await nbd.close();
await fixture.close();
