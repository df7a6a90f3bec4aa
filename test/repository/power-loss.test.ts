// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Catalog } from '../../appliance/catalog/catalog.ts';
import { reconcile } from '../../appliance/catalog/reconcile.ts';
import { newRepositoryConfig, storeNewConfig } from '../../appliance/repository/config.ts';
import { DirectoryStore } from '../../appliance/repository/directory-store.ts';
import { Repository } from '../../appliance/repository/repository.ts';
import { check } from '../../appliance/repository/scrub.ts';
import { CrashingFileSystem } from '../support/crashing-file-system.ts';
import { assertDisk, Dice, ModelDisk, writePoint } from '../support/point-model.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const KIB = 1024;
const ROOT = '/repository';
const RESOURCES = { threads: 1, cacheBytes: KIB * KIB, plainSlabs: 4, frameSlabs: 2, zstdLevel: 1 };

/** What a loss of power left, and what had been promised until then. */
interface Loss {
  readonly survivor: CrashingFileSystem;
  readonly promised: ReadonlyMap<string, Buffer>;
  readonly removed: ReadonlySet<string>;
}

/** A file system that loses its power now and then: each time a survivor is put aside, and the work goes on. */
class Losses {
  readonly fileSystem: CrashingFileSystem = new CrashingFileSystem();
  readonly seen: Loss[] = [];
  readonly promised: Map<string, Buffer> = new Map();
  readonly removed: Set<string> = new Set();
  #changes = 0;

  /** What happened until now is not of interest. */
  forgetAll(): void {
    this.#changes = this.fileSystem.changes;
    this.seen.length = 0;
  }

  /** To be called often: takes a survivor for each change of the file system since the last call. */
  observe(): void {
    for (; this.#changes < this.fileSystem.changes; this.#changes++) {
      this.seen.push({
        survivor: this.fileSystem.crash(this.#changes),
        promised: new Map(this.promised),
        removed: new Set(this.removed),
      });
    }
  }
}

/** Wraps every method so that `observe` is called after each. */
function observed(losses: Losses): CrashingFileSystem {
  return new Proxy(losses.fileSystem, {
    get: (target, name, receiver) => {
      const member: unknown = Reflect.get(target, name, receiver);
      if (typeof member !== 'function') return member;
      return async (...args: unknown[]): Promise<unknown> => {
        const result: unknown = await Reflect.apply(member, target, args);
        losses.observe();
        return result;
      };
    },
  });
}

async function dump(fileSystem: CrashingFileSystem, from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true });
  if ((await fileSystem.stat(from)) === undefined) return;
  for (const { name, kind } of await fileSystem.readDirectory(from)) {
    if (kind === 'directory') await dump(fileSystem, `${from}/${name}`, join(to, name));
    else await writeFile(join(to, name), fileSystem.contentOf(`${from}/${name}`));
  }
}

async function verify(directory: string, loss: Loss, secret: ReturnType<typeof newRepositoryConfig>): Promise<void> {
  await dump(loss.survivor, ROOT, join(directory, 'repository'));
  await using catalog = await Catalog.open(join(directory, 'catalog'));
  const store = await DirectoryStore.open(join(directory, 'repository'));
  await using repository = new Repository({ ...secret, store, index: catalog, resources: RESOURCES });
  await store.removeStaged();
  const report = await reconcile(repository, catalog);
  assert.deepEqual([report.damaged, report.strays], [[], []]);
  const points = await catalog.points();
  for (const [id, content] of loss.promised) {
    if (loss.removed.has(id)) continue;
    const point = points.find((one) => one.id === id);
    assert.ok(point !== undefined, 'a point whose backup had ended is listed');
    await assertDisk(repository, point, 'vda', content);
  }
  const { findings } = await check(repository, catalog, { readData: true });
  assert.deepEqual(findings, []);
}

const test = suite('loss of power');

test(
  'a loss of power at any moment of backups leaves every finished point, and nothing that looks like one',
  async (t) => {
    await tryLosses(t, async (losses, repository) => {
      const disk = new ModelDisk(128 * KIB, new Dice(3));
      for (let n = 0; n < 2; n++) {
        disk.fillWithNoise();
        const point = await writePoint(repository, { disks: { vda: disk } });
        losses.promised.set(point.id, Buffer.from(disk.content));
        losses.observe();
      }
    });
  },
  { timeoutMs: 60_000 },
);

test(
  'a loss of power at any moment of a deletion leaves the point listed or deleted',
  async (t) => {
    await tryLosses(t, async (losses, repository) => {
      const disk = new ModelDisk(128 * KIB, new Dice(4));
      disk.fillWithNoise();
      const [kept, gone] = [
        await writePoint(repository, { disks: { vda: disk } }),
        await writePoint(repository, { disks: { vda: disk } }),
      ];
      for (const point of [kept, gone]) losses.promised.set(point.id, Buffer.from(disk.content));
      const ref = { machineId: gone.machine.id, pointId: gone.id };
      losses.removed.add(gone.id);
      await repository.manifests.delete(ref, 0);
      await repository.manifests.undelete(ref);
      losses.removed.delete(gone.id);
      losses.observe();
      losses.removed.add(gone.id);
      await repository.manifests.delete(ref, 1);
      await repository.manifests.purge(ref);
    });
  },
  { timeoutMs: 60_000 },
);

async function tryLosses(
  t: TestContext,
  work: (losses: Losses, repository: Repository) => Promise<void>,
): Promise<void> {
  const directory = await t.tempDir();
  const secret = newRepositoryConfig({ recoveryKey: undefined, createdAt: '2026-11-21T00:00:00.000Z' });
  const losses = new Losses();
  const fileSystem = observed(losses);
  const store = await DirectoryStore.open(ROOT, fileSystem);
  await storeNewConfig(store, secret.config);
  losses.forgetAll();
  {
    await using catalog = await Catalog.open(join(directory, 'first'));
    await using repository = new Repository({ ...secret, store, fileSystem, index: catalog, resources: RESOURCES });
    // Threads read real files: nothing here may need one.
    await work(losses, repository);
  }
  losses.observe();
  assert.ok(losses.seen.length > 20, `${losses.seen.length} moments`);
  // Two changes of the file system in three are left out: what lies between them is in the fate of the third.
  for (const [n, loss] of losses.seen.entries()) {
    if (n % 3 !== 0) continue;
    const place = join(directory, `loss-${n}`);
    await verify(place, loss, secret).catch((error: unknown) => {
      throw new Error(`moment ${n} of ${losses.seen.length}: ${String(error)}`, { cause: error });
    });
    await rm(place, { recursive: true });
  }
}
