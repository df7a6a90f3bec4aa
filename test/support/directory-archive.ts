// SPDX-License-Identifier: Apache-2.0
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';

/** Files of a directory, and whatever is to be known of them, in one compressed file. */
export interface DirectoryArchive {
  readonly facts: unknown;
  /** Content in base 64, by path. */
  readonly files: Readonly<Record<string, string>>;
}

/** Everything below a directory but what the filter leaves out; sockets and empty directories are no content. */
export async function packDirectory(
  directory: string,
  facts: unknown,
  isWanted: (path: string) => boolean,
): Promise<Buffer> {
  const files: Record<string, string> = {};
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  for (const path of paths.sort()) {
    const name = path.slice(directory.length + 1);
    if (isWanted(name)) files[name] = (await readFile(path)).toString('base64');
  }
  return gzipSync(JSON.stringify({ facts, files } satisfies DirectoryArchive), { level: 9 });
}

/** Writes the files into a directory; settles with what is known of them. */
export async function unpackDirectory<Facts>(archive: string, directory: string): Promise<Facts> {
  const { facts, files } = JSON.parse(gunzipSync(await readFile(archive)).toString('utf8')) as DirectoryArchive;
  for (const [name, content] of Object.entries(files)) {
    const path = join(directory, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, Buffer.from(content, 'base64'), { mode: 0o600 });
  }
  return facts as Facts;
}
