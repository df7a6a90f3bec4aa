// SPDX-License-Identifier: Apache-2.0
import type { Logger } from 'pino';
import type { ApplianceHost } from '../api/appliance-host.ts';
import type { ApplianceError } from '../core/errors.ts';

export interface OpenOptions {
  readonly stateDirectory: string;
  /** The libvirt URI to use where an operation names none. */
  readonly connect?: string;
  readonly logger?: Logger;
  /** The process that serves booted machines; others leave them to it. */
  readonly isService?: boolean;
  /** Told what was found or done when the state was opened (with the first operation), in sentences; else the log is. */
  readonly onNotice?: (sentence: string) => void;
  /** Called when the process cannot work any more and has to be started anew. */
  readonly onFailure?: (error: ApplianceError) => void;
}

export interface InitOptions {
  readonly stateDirectory: string;
  readonly repository?: string;
  readonly encryption: boolean;
  /** Work with the repository in this directory instead of creating one. */
  readonly from?: string;
  readonly recoveryKey?: string;
}

export interface InitReport {
  readonly repository: string;
  readonly repositoryId: string;
  /** Shown once and kept nowhere; null without encryption, and with `from`. */
  readonly recoveryKey: string | null;
  /** What the repository had kept of a lost appliance; null for nothing. */
  readonly restored?: {
    readonly createdAt: string;
    /** Documents of the configuration by kind. */
    readonly documents: Readonly<Record<string, number>>;
    /** Protected machines and spares. */
    readonly records: number;
    /** False when passwords have to be entered again. */
    readonly hasSecrets: boolean;
  } | null;
}

/** What the commands work on; the wiring chooses, tests bring their own. */
export interface CliDependencies {
  /** Takes the state directory for this process. @throws LOCKED, REPOSITORY_NOT_FOUND, … */
  openAppliance(options: OpenOptions): Promise<ApplianceHost>;
  initialize(options: InitOptions): Promise<InitReport>;
  /** Program and leading arguments of a process that runs this same command line. */
  readonly selfCommand: readonly [program: string, ...args: string[]];
}
