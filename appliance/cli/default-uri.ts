// SPDX-License-Identifier: Apache-2.0

/**
 * The hypervisor of a command without `--connect`, as libvirt's own programs have it: `LIBVIRT_DEFAULT_URI`. Undefined leaves it
 * to the service. (libvirt: uri.html, "Default URI choice")
 */
export function defaultUri(env: Readonly<Record<string, string | undefined>>): string | undefined {
  const uri = env['LIBVIRT_DEFAULT_URI'];
  return uri === '' ? undefined : uri;
}
