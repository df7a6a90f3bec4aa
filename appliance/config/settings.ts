// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import type { FileSystem } from '../core/file-system.ts';
import { Collection } from './collection.ts';
import { isSealedSecret, type SecretBox } from './secret-box.ts';

interface SettingKinds {
  readonly text: string;
  readonly flag: boolean;
  readonly count: number;
  /** Sealed at rest, and never shown. Unset is the empty text. */
  readonly secret: string;
}

type SettingValue = SettingKinds[keyof SettingKinds];

/** One thing that can be set, with what holds until somebody sets it. */
export type SettingDefinition =
  | {
      readonly kind: 'text';
      readonly initial: string;
      readonly meaning: string;
      /** What it may be; anything up to 4096 characters when left out. */
      readonly pattern?: RegExp;
    }
  | { readonly kind: 'flag'; readonly initial: boolean; readonly meaning: string }
  | {
      readonly kind: 'count';
      readonly initial: number;
      readonly from: number;
      readonly to: number;
      readonly meaning: string;
    }
  | { readonly kind: 'secret'; readonly initial: ''; readonly meaning: string };

/** Everything that can be set, by name. A new one is a line here; `docs/settings.md` has the same names. */
export const SETTINGS = {
  'audit.syslog': {
    kind: 'text',
    initial: 'off',
    pattern: /^(off|journald|unix:\/[^\0]{1,100}|(udp|tcp):\/\/[^\s/]{1,250}:\d{1,5})$/,
    meaning:
      'where each entry of the audit log goes, too: off, journald, unix:PATH, udp://HOST:PORT or tcp://HOST:PORT',
  },
  'policy.runs': {
    kind: 'count',
    initial: 8,
    from: 1,
    to: 256,
    meaning: 'how many runs of policies may write to the repository at the same time',
  },
  'policy.runs-per-hypervisor': {
    kind: 'count',
    initial: 2,
    from: 1,
    to: 64,
    meaning: 'how many of them may read from one hypervisor at the same time',
  },
  'metrics.public': {
    kind: 'flag',
    initial: false,
    meaning: 'whether everybody who reaches the service may read its metrics, also without a token',
  },
  'selfbackup.enabled': {
    kind: 'flag',
    initial: true,
    meaning: 'whether the configuration is kept in the repository, encrypted',
  },
  'selfbackup.keep': {
    kind: 'count',
    initial: 14,
    from: 2,
    to: 100,
    meaning: 'how many states of the configuration the repository keeps',
  },
} as const satisfies Readonly<Record<string, SettingDefinition>>;

export type SettingName = keyof typeof SETTINGS;

type ValueOf<Name extends SettingName> = SettingKinds[(typeof SETTINGS)[Name]['kind']];

const DEFINITIONS: Readonly<Record<string, SettingDefinition>> = SETTINGS;

interface StoredSetting {
  readonly value: SettingValue;
}

const COLLECTION_NAME = 'settings';
const SECRET_FIELD = 'value';
const MAX_TEXT_CHARACTERS = 4096;

/** A setting as people see it: never the value of a secret. */
export interface ShownSetting {
  readonly name: SettingName;
  /** Null for a secret. */
  readonly value: string | boolean | number | null;
  /** False while the initial value holds. */
  readonly isSet: boolean;
  readonly kind: SettingDefinition['kind'];
  readonly initial: string | boolean | number;
  readonly meaning: string;
  readonly revision: number;
}

/** What can be set, each with a value that holds until somebody sets another. */
export class Settings {
  readonly collection: Collection<StoredSetting>;
  readonly #secrets: SecretBox;

  private constructor(collection: Collection<StoredSetting>, secrets: SecretBox) {
    this.collection = collection;
    this.#secrets = secrets;
  }

  /** Errors as `Collection.open`. */
  static async open(options: {
    readonly directory: string;
    readonly fileSystem: FileSystem;
    readonly secrets: SecretBox;
  }): Promise<Settings> {
    const { directory, fileSystem } = options;
    const collection = await Collection.open({ directory, fileSystem, name: COLLECTION_NAME, check: checkStored });
    return new Settings(collection, options.secrets);
  }

  /** The value that holds. @throws ApplianceError SECRET_UNREADABLE */
  value<Name extends SettingName>(name: Name): ValueOf<Name> {
    const stored = this.collection.find(name)?.value.value ?? SETTINGS[name].initial;
    if (isSealedSecret(stored)) return this.#secrets.open(placeOf(name), stored) as ValueOf<Name>;
    return stored as ValueOf<Name>;
  }

  /** Sets it from its value, or from a text that says it. Durable when settled. @throws ApplianceError NOT_FOUND, BAD_ARGUMENT */
  async set(name: string, value: SettingValue): Promise<ShownSetting> {
    const definition = definitionOf(name);
    const parsed = typeof value === 'string' ? parseSetting(name, definition, value) : value;
    checkValue(name, definition, parsed);
    const stored = definition.kind === 'secret' ? this.#secrets.seal(placeOf(name), String(parsed)) : parsed;
    await this.collection.put(name, { value: stored });
    return this.show(name);
  }

  /** The initial value again. @throws ApplianceError NOT_FOUND */
  async reset(name: string): Promise<ShownSetting> {
    definitionOf(name);
    if (this.collection.find(name) !== undefined) await this.collection.delete(name);
    return this.show(name);
  }

  /** @throws ApplianceError NOT_FOUND */
  show(name: string): ShownSetting {
    const { kind, initial, meaning } = definitionOf(name);
    const entry = this.collection.find(name);
    return {
      name: name as SettingName,
      value: kind === 'secret' ? null : (entry?.value.value ?? initial),
      isSet: entry !== undefined,
      kind,
      initial,
      meaning,
      revision: entry?.revision ?? 0,
    };
  }

  list(): readonly ShownSetting[] {
    return Object.keys(SETTINGS)
      .sort()
      .map((name) => this.show(name));
  }

  onChange(name: SettingName, listener: () => void): () => void {
    return this.collection.onChange(({ id }) => {
      if (id === name) listener();
    });
  }
}

function definitionOf(name: string): SettingDefinition {
  const definition = Object.hasOwn(DEFINITIONS, name) ? DEFINITIONS[name] : undefined;
  if (definition !== undefined) return definition;
  throw new ApplianceError('NOT_FOUND', `there is no setting ${name}`, { hint: 'See `understudy settings show`.' });
}

function placeOf(name: string): { readonly collection: string; readonly id: string; readonly field: string } {
  return { collection: COLLECTION_NAME, id: name, field: SECRET_FIELD };
}

function parseSetting(name: string, { kind }: SettingDefinition, text: string): SettingValue {
  if (kind === 'flag') {
    if (text === 'true' || text === 'on' || text === 'yes') return true;
    if (text === 'false' || text === 'off' || text === 'no') return false;
    throw new ApplianceError('BAD_ARGUMENT', `${name} is on or off`);
  }
  return kind === 'count' ? Number(text.trim() === '' ? 'none' : text) : text;
}

/** @throws ApplianceError BAD_ARGUMENT */
function checkValue(name: string, definition: SettingDefinition, value: unknown): void {
  switch (definition.kind) {
    case 'flag':
      if (typeof value !== 'boolean') throw new ApplianceError('BAD_ARGUMENT', `${name} is on or off`);
      return;
    case 'count': {
      const { from, to } = definition;
      if (Number.isSafeInteger(value) && (value as number) >= from && (value as number) <= to) return;
      throw new ApplianceError('BAD_ARGUMENT', `${name} is a whole number from ${from} to ${to}`);
    }
    case 'text':
    case 'secret': {
      const isText = typeof value === 'string' && value.length <= MAX_TEXT_CHARACTERS;
      const fits = definition.kind === 'secret' || definition.pattern?.test(String(value)) !== false;
      if (!isText || !fits) throw new ApplianceError('BAD_ARGUMENT', `${name} is ${definition.meaning}`);
    }
  }
}

/** A setting that this program does not know any more, or not yet, is kept as it is. */
function checkStored(value: unknown, id: string): StoredSetting {
  if (typeof value !== 'object' || value === null || !('value' in value)) {
    throw new ApplianceError('BAD_ARGUMENT', `the setting ${id} has no value`);
  }
  const definition = Object.hasOwn(DEFINITIONS, id) ? DEFINITIONS[id] : undefined;
  if (definition?.kind === 'secret' && !isSealedSecret(value.value)) {
    throw new ApplianceError('BAD_ARGUMENT', `the setting ${id} is not sealed`);
  }
  if (definition !== undefined && definition.kind !== 'secret') checkValue(id, definition, value.value);
  return value as StoredSetting;
}
