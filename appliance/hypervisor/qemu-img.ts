// SPDX-License-Identifier: Apache-2.0
import { resolve } from 'node:path';
import { ApplianceError } from '../core/errors.ts';
import { runTool, type ToolOptions } from './tool.ts';

/** A disk for `qemu-img`: a file, block device or URI (`nbd+unix:///…`), and its format, which is never guessed from content. */
export interface Image {
  /** A path, or a URI with `://`. */
  readonly location: string;
  /** `raw`, `qcow2`, `vmdk`, … */
  readonly format: string;
}

export interface ImageBitmap {
  readonly name: string;
  readonly granularityBytes: number;
  /** As stored: `auto` (recording), `in-use` (not closed cleanly, or open right now). */
  readonly flags: readonly string[];
}

export interface ImageInfo {
  readonly location: string;
  readonly format: string;
  /** What a guest sees. */
  readonly virtualSizeBytes: number;
  readonly actualSizeBytes: number;
  readonly clusterSizeBytes: number | null;
  readonly backing: { readonly location: string; readonly format: string | null } | null;
  /** qcow2 only: `0.10` (version 2) or `1.1` (version 3). */
  readonly compat: string | null;
  readonly isCorrupt: boolean;
  readonly isEncrypted: boolean;
  /** qcow2 with its data in another file. */
  readonly dataFile: string | null;
  readonly bitmaps: readonly ImageBitmap[];
}

export interface MapExtent {
  readonly offset: number;
  readonly length: number;
  /** Reads as zeroes. */
  readonly isZero: boolean;
  /** Has content of its own. */
  readonly isData: boolean;
  /** 0 for the image itself, 1 for its backing file, … */
  readonly depth: number;
  /** Where it lies in the file of that depth. */
  readonly fileOffset: number | null;
}

export interface CreateOptions extends ToolOptions {
  readonly sizeBytes?: number;
  readonly backing?: Image;
  /** `-o` options of the format. */
  readonly options?: Readonly<Record<string, string>>;
}

export interface ConvertOptions extends ToolOptions {
  readonly options?: Readonly<Record<string, string>>;
  readonly isCompressed?: boolean;
  /** Writes into a target that exists (`-n`) instead of creating it. */
  readonly isTargetExisting?: boolean;
  /** Copies persistent bitmaps too; without it they are dropped silently. */
  readonly keepsBitmaps?: boolean;
  /** From 0 to 1. */
  readonly onProgress?: (fraction: number) => void;
}

/** Copying and comparing take as long as the disk is large. */
const BULK_TIMEOUT_MS = 24 * 3600 * 1000;
const PROGRESS = /\(([\d.]+)\/100%\)/g;

/**
 * Metadata and bitmaps. With `isShared` it also opens an image that a running machine has locked: what it says may then change at any
 * moment, so that is for display and never for data. Source: qemu-img(1), qapi/block-core.json ImageInfo.
 */
export async function imageInfo(
  image: { readonly location: string; readonly format?: string },
  options: ToolOptions & { readonly isShared?: boolean } = {},
): Promise<ImageInfo> {
  const shared = options.isShared === true ? ['-U'] : [];
  const format = image.format === undefined ? [] : ['-f', image.format];
  const args = ['info', '--output=json', ...shared, ...format, operand(image.location)];
  return parseImageInfo((await runTool('qemu-img', args, options)).stdout);
}

/** Creates an image; with a backing image it is an overlay of it. */
export async function createImage(image: Image, options: CreateOptions): Promise<void> {
  const { backing, sizeBytes } = options;
  const base = backing === undefined ? [] : ['-b', operand(backing.location), '-F', backing.format];
  const size = sizeBytes === undefined ? [] : [String(sizeBytes)];
  const formatOptions = optionList(options.options);
  await runTool(
    'qemu-img',
    ['create', '-q', '-f', image.format, ...formatOptions, ...base, operand(image.location), ...size],
    options,
  );
}

export async function resizeImage(
  image: Image,
  sizeBytes: number,
  options: ToolOptions & { readonly isShrink?: boolean } = {},
): Promise<void> {
  const shrink = options.isShrink === true ? ['--shrink'] : [];
  await runTool(
    'qemu-img',
    ['resize', '-q', '-f', image.format, ...shrink, operand(image.location), String(sizeBytes)],
    options,
  );
}

/** Copies the content of `source` into `target`. An interrupted copy leaves an incomplete target behind. */
export async function convertImage(source: Image, target: Image, options: ConvertOptions = {}): Promise<void> {
  const { onProgress } = options;
  const args = [
    'convert',
    ...(onProgress === undefined ? ['-q'] : ['-p']),
    ...(options.isCompressed === true ? ['-c'] : []),
    ...(options.isTargetExisting === true ? ['-n'] : []),
    ...(options.keepsBitmaps === true ? ['--bitmaps'] : []),
    '-f',
    source.format,
    '-O',
    target.format,
    ...optionList(options.options),
    operand(source.location),
    operand(target.location),
  ];
  const onOutput = (text: string): void => {
    for (const match of text.matchAll(PROGRESS)) onProgress?.(Math.min(1, Number(match[1]) / 100));
  };
  await runTool('qemu-img', args, {
    timeoutMs: BULK_TIMEOUT_MS,
    ...options,
    ...(onProgress === undefined ? {} : { onOutput }),
  });
}

/** Whether both read the same; a longer one with zeroes at its end counts as the same unless `isStrict`. */
export async function compareImages(
  first: Image,
  second: Image,
  options: ToolOptions & { readonly isStrict?: boolean } = {},
): Promise<{ readonly isIdentical: boolean; readonly message: string }> {
  const strict = options.isStrict === true ? ['-s'] : [];
  const formats = ['-f', first.format, '-F', second.format];
  const args = ['compare', ...strict, ...formats, operand(first.location), operand(second.location)];
  // qemu-img(1): 1 means that they differ.
  const result = await runTool('qemu-img', args, { timeoutMs: BULK_TIMEOUT_MS, ...options, accepts: [0, 1] });
  return { isIdentical: result.exitCode === 0, message: result.stdout.trim() };
}

/** Sorted, disjoint, from 0 to the end of the disk. */
export async function mapImage(image: Image, options: ToolOptions = {}): Promise<MapExtent[]> {
  const args = ['map', '--output=json', '-f', image.format, operand(image.location)];
  return parseImageMap((await runTool('qemu-img', args, { timeoutMs: BULK_TIMEOUT_MS, ...options })).stdout);
}

export type BitmapAction =
  | { readonly action: 'add'; readonly name: string; readonly granularityBytes?: number; readonly isDisabled?: boolean }
  | { readonly action: 'remove' | 'clear' | 'enable' | 'disable'; readonly name: string }
  | { readonly action: 'merge'; readonly name: string; readonly from: string };

/** Changes a persistent bitmap of a qcow2 image that nobody has open. `merge` adds the bits of `from` to `name`. */
export async function changeBitmap(location: string, change: BitmapAction, options: ToolOptions = {}): Promise<void> {
  await runTool(
    'qemu-img',
    ['bitmap', ...bitmapArguments(change), '-f', 'qcow2', operand(location), change.name],
    options,
  );
}

/** Decodes the output of `qemu-img info --output=json`. Throws TOOL_FAILED when it is not what qemu-img prints. */
export function parseImageInfo(json: string): ImageInfo {
  const info = asRecord(JSON.parse(json));
  const specific = asRecord(asRecord(info['format-specific'])['data']);
  const backing = text(info['backing-filename']);
  const bitmaps = Array.isArray(specific['bitmaps']) ? specific['bitmaps'].map(asRecord) : [];
  return {
    location: text(info['filename']) ?? '',
    format: requireText(info['format']),
    virtualSizeBytes: requireSize(info['virtual-size']),
    actualSizeBytes: number(info['actual-size']) ?? 0,
    clusterSizeBytes: number(info['cluster-size']),
    backing: backing === null ? null : { location: backing, format: text(info['backing-filename-format']) },
    compat: text(specific['compat']),
    isCorrupt: specific['corrupt'] === true,
    isEncrypted: info['encrypted'] === true,
    dataFile: text(specific['data-file']),
    bitmaps: bitmaps.map((bitmap) => ({
      name: requireText(bitmap['name']),
      granularityBytes: requireSize(bitmap['granularity']),
      flags: Array.isArray(bitmap['flags']) ? bitmap['flags'].map(String) : [],
    })),
  };
}

/** Decodes the output of `qemu-img map --output=json`. */
export function parseImageMap(json: string): MapExtent[] {
  const list: unknown = JSON.parse(json);
  if (!Array.isArray(list)) throw unexpected('map');
  return list.map(asRecord).map((entry) => ({
    offset: requireSize(entry['start']),
    length: requireSize(entry['length']),
    isZero: entry['zero'] === true,
    isData: entry['data'] === true,
    depth: number(entry['depth']) ?? 0,
    fileOffset: number(entry['offset']),
  }));
}

function bitmapArguments(change: BitmapAction): string[] {
  switch (change.action) {
    case 'add':
      return [
        '--add',
        ...(change.granularityBytes === undefined ? [] : ['-g', String(change.granularityBytes)]),
        ...(change.isDisabled === true ? ['--disable'] : []),
      ];
    case 'merge':
      return ['--merge', change.from];
    case 'remove':
    case 'clear':
    case 'enable':
    case 'disable':
      return [`--${change.action}`];
  }
}

/** A relative path with a colon would be taken for a protocol, one with a dash for an option; an absolute path is neither. */
function operand(location: string): string {
  return location.includes('://') || location.startsWith('json:') ? location : resolve(location);
}

function optionList(options: Readonly<Record<string, string>> = {}): string[] {
  const entries = Object.entries(options).map(([key, value]) => `${key}=${value.replaceAll(',', ',,')}`);
  return entries.length === 0 ? [] : ['-o', entries.join(',')];
}

function asRecord(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

function text(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}

function number(value: unknown): number | null {
  return typeof value === 'number' ? value : null;
}

function requireText(value: unknown): string {
  if (typeof value !== 'string') throw unexpected('a string');
  return value;
}

function requireSize(value: unknown): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw unexpected('a size');
  return value;
}

function unexpected(what: string): ApplianceError {
  return new ApplianceError('TOOL_FAILED', `qemu-img printed something unexpected in place of ${what}`);
}
