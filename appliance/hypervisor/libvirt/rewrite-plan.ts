// SPDX-License-Identifier: Apache-2.0
import type { DomainMarker } from './domain-marker.ts';

/** What a disk of the new domain reads from. */
export type DiskReplacement =
  | {
      readonly kind: 'nbd';
      readonly socketPath: string;
      readonly exportName: string;
      /** How long the guest's requests wait for the server to come back before they fail. */
      readonly reconnectSeconds: number;
    }
  | { readonly kind: 'file'; readonly path: string; readonly format: string }
  | { readonly kind: 'block'; readonly path: string };

/** What is there on the host that will run the domain. */
export interface HostFacts {
  hasPath(path: string): boolean;
  hasBridge(name: string): boolean;
  /** A libvirt network that is active. */
  hasNetwork(name: string): boolean;
}

export interface RewritePlan {
  readonly name: string;
  /** A new UUID, or the saved one to keep the machine's identity. */
  readonly uuid: string;
  /** False gives every network card a new address, made from `uuid`. */
  readonly keepsMacAddresses: boolean;
  /** False takes the cable out of every network card. */
  readonly keepsNetwork: boolean;
  /** By target. Disks of the definition that are not named are left out. */
  readonly disks: Readonly<Record<string, DiskReplacement>>;
  /** The restored copy of the firmware's variables; without it the firmware starts with fresh ones. */
  readonly nvramPath?: string;
  readonly marker: DomainMarker;
}

/** What the parts of the rewriting share. */
export interface Rewrite {
  readonly plan: RewritePlan;
  readonly host: HostFacts;
  readonly changes: string[];
}
