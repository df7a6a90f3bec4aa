// SPDX-License-Identifier: Apache-2.0

/** Plain blocks that were read last, by key. Who asks for a block that is being read gets the same one. */
export class BlockCache {
  private readonly limitBytes: number;
  private readonly blocks = new Map<string, Buffer>();
  private readonly loading = new Map<string, Promise<Buffer>>();
  private bytes = 0;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  /** The block, from `load` when it is not here. The result must not be changed. Errors: those of `load`. */
  async get(key: string, load: () => Promise<Buffer>): Promise<Buffer> {
    const known = this.blocks.get(key);
    if (known !== undefined) {
      this.blocks.delete(key);
      this.blocks.set(key, known);
      return known;
    }
    const running = this.loading.get(key);
    if (running !== undefined) return await running;
    const loading = load();
    this.loading.set(key, loading);
    try {
      const block = await loading;
      this.keep(key, block);
      return block;
    } finally {
      this.loading.delete(key);
    }
  }

  private keep(key: string, block: Buffer): void {
    this.blocks.set(key, block);
    this.bytes += block.length;
    for (const [oldest, old] of this.blocks) {
      if (this.bytes <= this.limitBytes) break;
      this.blocks.delete(oldest);
      this.bytes -= old.length;
    }
  }
}
