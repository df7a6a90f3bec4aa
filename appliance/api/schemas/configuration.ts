// SPDX-License-Identifier: Apache-2.0
import { type Immutable, type Static, Type } from './type.ts';
import { flag, list, maybe, params, part, report, text, word } from './vocabulary.ts';

/** The configuration as a file. */

/** Longest document that is taken. */
const MAX_DOCUMENT_CHARACTERS: number = 4 * 1024 * 1024;

const passphrase = maybe(word('Of at least 12 characters, for the secrets in it. Without one they are left out.'));

export const configExportParams = params({ passphrase });

export const configExportResult = report('ConfigurationExport', {
  document: text('The file; docs/formats/configuration.md.'),
  documents: list(part({ collection: text(), count: Type.Integer({ minimum: 0 }) })),
  hasSecrets: flag(),
});

export const configImportParams = params({
  document: Type.String({ minLength: 1, maxLength: MAX_DOCUMENT_CHARACTERS }),
  passphrase,
  dryRun: maybe(flag('Only say what would change.')),
});

export const configImportResult = report('ConfigurationImport', {
  applied: flag('False for a dry run.'),
  differences: list(
    part({ collection: text(), added: list(text()), changed: list(text()), removed: list(text()) }),
    'Ids of documents, for each collection in the file; collections that it does not have stay as they are.',
  ),
});

export type ConfigExportParams = Immutable<Static<typeof configExportParams>>;
export type ConfigExportReport = Immutable<Static<typeof configExportResult>>;
export type ConfigImportParams = Immutable<Static<typeof configImportParams>>;
export type ConfigImportReport = Immutable<Static<typeof configImportResult>>;
