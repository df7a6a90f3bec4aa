// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { BackupReport } from '../../appliance/api/operations.ts';
import type { CheckReport } from '../../appliance/api/schemas/repository.ts';
import { StateDirectory } from '../../appliance/app/state-directory.ts';
import type { ErrorCode } from '../../appliance/core/error-codes.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { ApplianceProcess, assertSameBytes, errorOf } from '../support/appliance-process.ts';
import type { LiveProcess } from '../support/live-process.ts';
import { definePlainMachine, type LibvirtRig, startLibvirt } from '../support/machines.ts';
import { stopProcess } from '../support/process-state.ts';
import type { TestContext } from '../support/test-scope.ts';

const execute = promisify(execFile);
const MIB = 1024 * 1024;
export const DISK_BYTES: number = 48 * MIB;
/** Bytes of the disk that every machine has at first, and that are overwritten with noise by `fill`. */
const FIRST = '8M';
const NOISE_MIB = 36;

/** A running machine with one point, a second backup of it that stands still in the middle, and what must hold afterwards. */
export class Scene {
  readonly rig: LibvirtRig;
  readonly appliance: ApplianceProcess;
  readonly domain: Domain;
  readonly image: string;

  private constructor(rig: LibvirtRig, appliance: ApplianceProcess, domain: Domain) {
    this.rig = rig;
    this.appliance = appliance;
    this.domain = domain;
    this.image = join(rig.libvirt.directory, 'web-vda.qcow2');
  }

  static async create(t: TestContext, state: 'running' | 'shut-off' = 'running'): Promise<Scene> {
    const rig = await startLibvirt(t);
    const domain = await definePlainMachine(rig, 'web', [{ target: 'vda', sizeBytes: DISK_BYTES }]);
    const appliance = new ApplianceProcess(t, join(await t.tempDir(), 'state'));
    await appliance.ask('init');
    const scene = new Scene(rig, appliance, domain);
    await execute('qemu-io', ['-f', 'qcow2', '-c', `write -P 1 0 ${FIRST}`, scene.image]);
    if (state === 'running') await domain.start();
    return scene;
  }

  get backupWords(): readonly string[] {
    return ['backup', 'web', '--connect', this.rig.libvirt.uri];
  }

  backup(): Promise<BackupReport> {
    return this.appliance.ask<BackupReport>(...this.backupWords);
  }

  /** Random data over most of the disk, through QEMU as a guest would. */
  async fill(): Promise<void> {
    const noise = join(this.rig.libvirt.directory, 'noise');
    await execute('dd', ['if=/dev/urandom', `of=${noise}`, 'bs=1M', `count=${NOISE_MIB}`, 'status=none']);
    await this.guestWrite(`write -s ${noise} ${FIRST} ${NOISE_MIB}M`);
    await rm(noise);
  }

  async guestWrite(command: string): Promise<void> {
    await guestWrite(this.domain, command);
    // What QEMU keeps of the image's tables in memory is written too, so that the image can be compared.
    await guestWrite(this.domain, 'flush');
  }

  /** A backup that was stopped (SIGSTOP) when a part of the disk had been written to the repository. */
  async halfBackup(): Promise<LiveProcess> {
    const running = this.appliance.start(...this.backupWords, '--json');
    await this.appliance.untilStaged(running, 2 * MIB);
    await stopProcess(running.pid);
    assert.ok((await this.appliance.stagedBytes()) < NOISE_MIB * MIB, 'the backup is not done yet');
    return running;
  }

  /** The disk as QEMU has it, copied while nothing writes. */
  async expected(): Promise<Buffer> {
    const raw = join(this.rig.libvirt.directory, 'expected.raw');
    await execute('qemu-img', ['convert', '-U', '-O', 'raw', this.image, raw]);
    return readFile(raw);
  }

  /** No trace of a run is left. libvirt deletes checkpoints of running machines only: there, the newest point's is left. */
  async assertTidy(domain: Domain): Promise<void> {
    const left = (await readdir(this.rig.libvirt.directory)).filter((name) => name.includes('scratch'));
    assert.deepEqual(left, [], 'no scratch file is left');
    assert.deepEqual(await readdir(join(this.appliance.repository, 'staging')), []);
    assert.deepEqual(await this.runtimeLeftovers(), [], 'no socket is left');
    if ((await domain.state()).state !== 'running') return;
    const names = (await domain.checkpoints()).map(({ name }) => name);
    assert.equal(names.length, 1, names.join());
  }

  async runtimeLeftovers(): Promise<string[]> {
    const directory = new StateDirectory(this.appliance.state).runtimePath;
    return existsSync(directory) ? readdir(directory) : [];
  }

  /** Ends a stopped backup as it will, and checks its error and that it left no point. */
  async endsWith(running: LiveProcess, codes: readonly ErrorCode[], points: number): Promise<void> {
    running.kill('SIGCONT');
    const result = await running.result;
    const code = (JSON.parse(result.stdout) as { error?: { code: ErrorCode } }).error?.code;
    assert.ok(code !== undefined && codes.includes(code), `${codes.join(' or ')}: ${result.stdout}${result.stderr}`);
    errorOf(result, code);
    assert.equal((await this.appliance.points()).length, points);
  }

  /** The next backup is right to the last byte, earlier points are as they were, and nothing is left lying about. */
  async assertRecovers(first: Buffer, kinds: readonly string[], domain: Domain = this.domain): Promise<BackupReport> {
    const next = await this.backup();
    assert.ok(kinds.includes(next.kind), `${next.kind}: ${next.reason}`);
    assertSameBytes(await this.appliance.restored(next.point), await this.expected(), 'the next point');
    const oldest = (await this.appliance.points()).at(-1);
    assertSameBytes(await this.appliance.restored(oldest?.id ?? ''), first, 'the first point');
    await this.assertTidy(domain);
    assert.equal((await this.appliance.ask<CheckReport>('check', '--read-data')).ok, true);
    return next;
  }
}

/** Through QEMU, so that bitmaps see it. */
async function guestWrite(domain: Domain, command: string): Promise<void> {
  const reply = await domain.monitorCommand({
    execute: 'human-monitor-command',
    arguments: { 'command-line': `qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "${command}"` },
  });
  assert.doesNotMatch(String(reply), /failed|error|cannot/i, `${command}: ${String(reply)}`);
}
