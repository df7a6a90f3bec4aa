// SPDX-License-Identifier: Apache-2.0
import type { Appliance } from '../api/operations.ts';
import type {
  ConfigExportParams,
  ConfigExportReport,
  ConfigImportParams,
  ConfigImportReport,
} from '../api/schemas/configuration.ts';
import type {
  HypervisorAddParams,
  HypervisorParams,
  HypervisorRemoveParams,
  HypervisorReport,
  HypervisorTestReport,
  HypervisorUpdateParams,
} from '../api/schemas/hypervisors.ts';
import type { SettingParams, SettingReport, SettingSetParams } from '../api/schemas/settings.ts';
import type { Collection, CollectionDefinition, Entry } from '../config/collection.ts';
import type { Configuration } from '../config/configuration.ts';
import { HYPERVISORS, type HypervisorRecord } from '../config/hypervisor-record.ts';
import { applyImport, exportConfiguration, planImport } from '../config/transfer.ts';
import type { Clock } from '../core/clock.ts';
import { testHypervisor } from './hypervisor-test.ts';
import { checkHypervisorRecord, checkPassword, type Hypervisors, passwordPlace, uriOf } from './hypervisors.ts';

type Operations = Pick<
  Appliance,
  | 'hypervisors'
  | 'hypervisorShow'
  | 'hypervisorAdd'
  | 'hypervisorUpdate'
  | 'hypervisorRemove'
  | 'hypervisorTest'
  | 'configExport'
  | 'configImport'
  | 'settings'
  | 'settingSet'
  | 'settingReset'
>;

type Credentials = Pick<HypervisorUpdateParams, 'uri' | 'sshKeyFile' | 'tlsDirectory' | 'username' | 'password'>;

/** Hypervisors and settings. They need neither catalog nor repository. */
export class ConfigurationOperations implements Operations {
  readonly #configuration: Configuration;
  readonly #hypervisors: Hypervisors;
  readonly #clock: Clock;
  readonly #more: readonly CollectionDefinition<unknown>[];

  /** `more`: the other collections that exports and imports carry. */
  constructor(parts: {
    readonly configuration: Configuration;
    readonly hypervisors: Hypervisors;
    readonly clock: Clock;
    readonly more: readonly CollectionDefinition<unknown>[];
  }) {
    this.#configuration = parts.configuration;
    this.#hypervisors = parts.hypervisors;
    this.#clock = parts.clock;
    this.#more = parts.more;
  }

  async hypervisors(): Promise<readonly HypervisorReport[]> {
    return this.#configuration.hypervisors.list().map(hypervisorReport);
  }

  async hypervisorShow({ name }: HypervisorParams): Promise<HypervisorReport> {
    return hypervisorReport(this.#configuration.hypervisors.get(name));
  }

  async hypervisorAdd({ name, ...given }: HypervisorAddParams): Promise<HypervisorReport> {
    const record = { uri: given.uri, ...this.#credentials(name, given) };
    checkHypervisorRecord(record);
    return hypervisorReport(await this.#configuration.hypervisors.create(name, record));
  }

  async hypervisorUpdate(params: HypervisorUpdateParams): Promise<HypervisorReport> {
    const { name, withoutCredentials, revision, ...given } = params;
    const added = this.#credentials(name, given);
    const change = ({ uri, ...before }: HypervisorRecord): HypervisorRecord => {
      const record = { uri, ...(withoutCredentials === true ? {} : before), ...added };
      checkHypervisorRecord(record);
      return record;
    };
    return hypervisorReport(await this.#configuration.hypervisors.update(name, change, { expect: revision }));
  }

  async hypervisorRemove({ name, revision }: HypervisorRemoveParams): Promise<HypervisorReport> {
    const { hypervisors } = this.#configuration;
    const entry = hypervisors.get(name);
    await hypervisors.delete(name, { expect: revision ?? entry.revision });
    return hypervisorReport(entry);
  }

  async hypervisorTest({ name }: HypervisorParams): Promise<HypervisorTestReport> {
    const record = this.#configuration.hypervisors.get(name).value;
    return testHypervisor({ name, uri: uriOf(record), record }, (uri) => this.#hypervisors.open(uri));
  }

  async configExport({ passphrase }: ConfigExportParams): Promise<ConfigExportReport> {
    const collections = await this.#transferred();
    const createdAt = new Date(this.#clock.nowMs()).toISOString();
    const file = exportConfiguration(collections, this.#configuration.secrets, { createdAt, passphrase });
    return {
      document: `${JSON.stringify(file, null, 2)}\n`,
      documents: Object.entries(file.collections).map(([collection, all]) => ({ collection, count: all.length })),
      hasSecrets: file.secrets !== null,
    };
  }

  async configImport({ document, passphrase, dryRun }: ConfigImportParams): Promise<ConfigImportReport> {
    const { secrets } = this.#configuration;
    const plan = planImport(document, await this.#transferred(), { secrets, passphrase });
    for (const [collection, values] of plan.documents) {
      if (collection.name !== HYPERVISORS.name) continue;
      for (const value of values.values()) checkHypervisorRecord(value as HypervisorRecord);
    }
    if (dryRun !== true) await applyImport(plan);
    return { applied: dryRun !== true, differences: plan.differences };
  }

  async settings(): Promise<readonly SettingReport[]> {
    return this.#configuration.settings.list();
  }

  async settingSet({ name, value }: SettingSetParams): Promise<SettingReport> {
    return this.#configuration.settings.set(name, value);
  }

  async settingReset({ name }: SettingParams): Promise<SettingReport> {
    return this.#configuration.settings.reset(name);
  }

  /** What an operator decided about protection. Who may come in is not carried in a file: nobody becomes an administrator by one. */
  async #transferred(): Promise<readonly Collection<unknown>[]> {
    const { hypervisors, settings } = this.#configuration;
    const more = await Promise.all(this.#more.map((definition) => this.#configuration.collection(definition)));
    return [hypervisors, settings.collection, ...more] as readonly Collection<unknown>[];
  }

  /** What was given, as it is kept: the password sealed for its place. */
  #credentials(name: string, { password, ...open }: Credentials): Partial<HypervisorRecord> {
    const { sshKeyFile, tlsDirectory, username, uri } = open;
    if (password !== undefined) checkPassword(password);
    return {
      ...(uri === undefined ? {} : { uri }),
      ...(sshKeyFile === undefined ? {} : { sshKeyFile }),
      ...(tlsDirectory === undefined ? {} : { tlsDirectory }),
      ...(username === undefined ? {} : { username }),
      ...(password === undefined ? {} : { password: this.#configuration.secrets.seal(passwordPlace(name), password) }),
    };
  }
}

/** Without anything that is sealed. */
function hypervisorReport({ id, revision, value }: Entry<HypervisorRecord>): HypervisorReport {
  const { uri, sshKeyFile = null, tlsDirectory = null, username = null, password } = value;
  return { name: id, uri, sshKeyFile, tlsDirectory, username, hasPassword: password !== undefined, revision };
}
