// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { localPrincipal } from '../../appliance/access/principal.ts';
import type { Appliance, BackupReport, OperationContext, PointSummary } from '../../appliance/api/operations.ts';
import { openAppliance } from '../../appliance/main.ts';
import { ApplianceProcess, assertSameBytes } from '../support/appliance-process.ts';
import { checkedAppliance } from '../support/checked-appliance.ts';
import { DiskServer } from '../support/disk-server.ts';
import { Dice } from '../support/point-model.ts';
import type { TestContext } from '../support/test-scope.ts';

const MIB = 1024 * 1024;
export const CONTEXT: OperationContext = {
  principal: localPrincipal(),
  signal: new AbortController().signal,
  onProgress: () => undefined,
  onNotice: () => undefined,
};

/** A state directory with points of one disk, each with its content kept apart from the appliance. */
export class PointsRig {
  readonly directory: string;
  readonly appliance: ApplianceProcess;
  readonly recoveryKey: string;
  /** By point. */
  readonly contents: Map<string, Buffer> = new Map<string, Buffer>();
  readonly #disk: DiskServer;
  readonly #content: Buffer;
  readonly #dice: Dice;

  private constructor(
    appliance: ApplianceProcess,
    made: { readonly directory: string; readonly recoveryKey: string },
    disk: { readonly server: DiskServer; readonly content: Buffer; readonly dice: Dice },
  ) {
    this.appliance = appliance;
    this.directory = made.directory;
    this.recoveryKey = made.recoveryKey;
    this.#disk = disk.server;
    this.#content = disk.content;
    this.#dice = disk.dice;
  }

  static async create(t: TestContext, sizeBytes: number = 4 * MIB): Promise<PointsRig> {
    const directory = await t.tempDir();
    const appliance = new ApplianceProcess(t, join(directory, 'state'));
    const { recoveryKey } = await appliance.ask<{ recoveryKey: string }>('init');
    const dice = new Dice(7);
    const content = dice.bytes(sizeBytes);
    content.fill('text that compresses well\n', 0, sizeBytes / 4);
    const server = t.use(await DiskServer.start(join(directory, 'nbd'), content));
    return new PointsRig(appliance, { directory, recoveryKey }, { server, content, dice });
  }

  get uri(): string {
    return this.#disk.uri;
  }

  /** Changes a part of the disk and backs it up, in this process. */
  async addPoint(): Promise<BackupReport> {
    const { length } = this.#content;
    const at = this.#dice.below(length - length / 8);
    this.#dice.bytes(length / 8).copy(this.#content, at);
    await this.#disk.write(this.#content);
    const report = await this.using((appliance) => appliance.backup({ target: this.uri, name: 'mail' }, CONTEXT));
    this.contents.set(report.point, Buffer.from(this.#content));
    return report;
  }

  /** Runs on an appliance in this process: the same wiring as the command line's, without the start of a process. */
  async using<T>(action: (appliance: Appliance) => Promise<T>, state: string = this.appliance.state): Promise<T> {
    const appliance = checkedAppliance(await openAppliance({ stateDirectory: state }));
    try {
      return await action(appliance);
    } finally {
      await appliance[Symbol.asyncDispose]();
    }
  }

  async restored(appliance: Appliance, point: string): Promise<Buffer> {
    const to = join(this.directory, `restored-${point}`);
    await appliance.restore({ point, to }, CONTEXT);
    const bytes = await readFile(to);
    await rm(to);
    return bytes;
  }

  /** Exactly these points are listed, and each restores to what was backed up. */
  async assertAllRestore(appliance: Appliance, expected: Iterable<string> = this.contents.keys()): Promise<void> {
    const listed: PointSummary[] = [...(await appliance.points({}, CONTEXT))];
    assert.deepEqual(listed.map(({ id }) => id).sort(), [...expected].sort());
    for (const { id } of listed) {
      assertSameBytes(await this.restored(appliance, id), this.contents.get(id) ?? Buffer.alloc(0), `point ${id}`);
    }
  }
}
