// SPDX-License-Identifier: Apache-2.0
import type { Appliance } from '../api/operations.ts';
import type {
  HypervisorAddParams,
  HypervisorParams,
  HypervisorRemoveParams,
  HypervisorReport,
  HypervisorTestReport,
  HypervisorUpdateParams,
} from '../api/schemas/hypervisors.ts';
import type { SettingParams, SettingReport, SettingSetParams } from '../api/schemas/settings.ts';
import type { Entry } from '../config/collection.ts';
import type { Configuration } from '../config/configuration.ts';
import type { HypervisorRecord } from '../config/hypervisor-record.ts';
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
  | 'settings'
  | 'settingSet'
  | 'settingReset'
>;

type Credentials = Pick<HypervisorUpdateParams, 'uri' | 'sshKeyFile' | 'tlsDirectory' | 'username' | 'password'>;

/** Hypervisors and settings. They need neither catalog nor repository. */
export class ConfigurationOperations implements Operations {
  readonly #configuration: Configuration;
  readonly #hypervisors: Hypervisors;

  constructor(configuration: Configuration, hypervisors: Hypervisors) {
    this.#configuration = configuration;
    this.#hypervisors = hypervisors;
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

  async settings(): Promise<readonly SettingReport[]> {
    return this.#configuration.settings.list();
  }

  async settingSet({ name, value }: SettingSetParams): Promise<SettingReport> {
    return this.#configuration.settings.set(name, value);
  }

  async settingReset({ name }: SettingParams): Promise<SettingReport> {
    return this.#configuration.settings.reset(name);
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
