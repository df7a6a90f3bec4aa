// SPDX-License-Identifier: Apache-2.0
import { runPipeline } from '../block/pipeline.ts';
import { isZeroes, type WriteLayer, type WriteSink } from '../volume/write-layer.ts';

/** One disk, under its number in the layer and in the log. */
export interface LayerDisk {
  readonly from: number;
  readonly to: number;
  readonly sizeBytes: number;
}

interface Piece {
  readonly to: number;
  readonly offset: number;
  readonly length: number;
  readonly value: number;
  readonly valueOffset: number;
}

/** Pieces that are copied at the same time, and the most bytes of one. */
const LANES = 64;
const PIECE_BYTES: number = 256 * 1024;

/**
 * Appends to a log what a layer reads as, so that the log over the layer's base is what the layer was. Each place is
 * appended once, and on stable storage when this settles. Once aborted no further append starts.
 * @throws ApplianceError ABORTED, NO_SPACE, WRITE_LOG_CORRUPT, IO_FAILED
 */
export async function copyLayer(
  layer: WriteLayer,
  log: WriteSink,
  disks: readonly LayerDisk[],
  signal?: AbortSignal,
): Promise<void> {
  await runPipeline<Piece>({
    items: pieces(layer, disks),
    lanes: LANES,
    ...(signal === undefined ? {} : { signal }),
    start: () => async (piece) => {
      const { to: disk, offset, length } = piece;
      if (isZeroes(piece.value)) {
        await log.appendZero({ disk, offset, length });
        return;
      }
      const data = Buffer.allocUnsafe(length);
      await layer.read(piece.value, piece.valueOffset, data);
      await log.append({ disk, offset, data });
    },
  });
  await log.flush();
}

async function* pieces(layer: WriteLayer, disks: readonly LayerDisk[]): AsyncGenerator<Piece, void, undefined> {
  for (const { from, to, sizeBytes } of disks) {
    for (const slice of layer.sliceIterator({ disk: from, offset: 0, length: sizeBytes })) {
      if (slice.value === undefined) continue;
      const most = isZeroes(slice.value) ? slice.length : PIECE_BYTES;
      for (let done = 0; done < slice.length; done += most) {
        const length = Math.min(most, slice.length - done);
        const valueOffset = slice.valueOffset + done;
        yield { to, offset: slice.offset + done, length, value: slice.value, valueOffset };
      }
    }
  }
}
