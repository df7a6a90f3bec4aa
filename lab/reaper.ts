// SPDX-License-Identifier: Apache-2.0
import { existsSync, readFileSync } from 'node:fs';

const PERL = '/usr/bin/perl';
/** Number of prctl(2), by architecture. */
const PRCTL: Readonly<Partial<Record<NodeJS.Architecture, number>>> = { x64: 157, arm64: 167 };
/**
 * Becomes the parent of orphans (PR_SET_CHILD_SUBREAPER, 36), starts the command, which ends with it (PR_SET_PDEATHSIG, 1), and
 * takes notice of every end at once.
 */
const PROGRAM = [
  'my $prctl = shift; syscall($prctl, 36, 1, 0, 0, 0);',
  'my $child = fork; defined $child or exit 1;',
  'if (!$child) { syscall($prctl, 1, 9, 0, 0, 0); exec @ARGV; exit 1 }',
  '$SIG{TERM} = sub { kill "TERM", $child };',
  'for (;;) { exit($? == 0 ? 0 : 1) if wait == $child }',
].join('\n');

/**
 * A command with a parent for what it leaves behind. libvirt's QEMUs have `init` as their parent, and libvirt counts one as
 * running until its parent has taken notice of its end. An `init` does that at once; those of some containers look once in a
 * second, and each end of a machine takes as long. As it is where there is no Perl.
 */
export function withReaper(command: readonly string[]): readonly string[] {
  const prctl = PRCTL[process.arch];
  return prctl === undefined || !existsSync(PERL) ? command : [PERL, '-e', PROGRAM, String(prctl), ...command];
}

/** The process of a command that was started by `pid` with a reaper: its oldest child, or itself. */
export function reapedPid(pid: number, name: string): number {
  try {
    if (commandOf(pid) === name) return pid;
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number);
    return children.find((child) => child > 0 && commandOf(child) === name) ?? pid;
  } catch {
    // It has ended, or the kernel does not tell.
    return pid;
  }
}

function commandOf(pid: number): string {
  return readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
}
