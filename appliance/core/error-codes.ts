// SPDX-License-Identifier: Apache-2.0
import type { RetryClass } from './errors.ts';

export interface CodeEntry {
  readonly retry: RetryClass;
  readonly exit: keyof typeof EXIT_CODES;
  /** What the operator can do; a throw site may give a more exact one. */
  readonly hint: string;
}

/** Process exit codes, by what the operator must do next. */
export const EXIT_CODES = {
  ok: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  busy: 4,
  corrupt: 5,
  unreachable: 6,
  key: 7,
  noSpace: 8,
  denied: 9,
  interrupted: 130,
} as const;

/**
 * Every error code, one line each, grouped by layer. `docs/errors.md` holds the same codes with their explanation, and
 * a test compares the two in both directions.
 */
export const ERROR_CODES = {
  // core
  ABORTED: {
    retry: 'transient',
    exit: 'interrupted',
    hint: 'The operation was interrupted; nothing half-done is listed. Run it again.',
  },
  BAD_ARGUMENT: { retry: 'never', exit: 'usage', hint: 'Run the command with --help to see what it takes.' },
  IO_FAILED: { retry: 'after-repair', exit: 'failed', hint: 'Look at the device and the file system named above.' },
  NO_SPACE: {
    retry: 'after-repair',
    exit: 'noSpace',
    hint: 'Free space, or delete recovery points and run `understudy gc`.',
  },
  LOCKED: {
    retry: 'transient',
    exit: 'busy',
    hint: 'Another process uses it; wait for it, or use the running `understudy serve`.',
  },
  TIMED_OUT: {
    retry: 'transient',
    exit: 'unreachable',
    hint: 'The other side did not answer in time; check that it runs and try again.',
  },
  INTERNAL: { retry: 'never', exit: 'failed', hint: 'This is a defect; please report it with the log.' },

  // block
  OUT_OF_RANGE: { retry: 'never', exit: 'failed', hint: 'The request lies outside the disk.' },
  READ_ONLY: { retry: 'never', exit: 'failed', hint: 'The device is read-only; export a writable copy instead.' },
  NOT_SUPPORTED: { retry: 'never', exit: 'failed', hint: 'The device cannot do this.' },
  CLOSED: { retry: 'never', exit: 'failed', hint: 'The device or connection was closed before the request.' },

  // nbd
  NBD_BAD_URI: {
    retry: 'never',
    exit: 'usage',
    hint: 'Use nbd://host[:port]/export, nbds://…, or nbd+unix:///export?socket=/path.',
  },
  NBD_CONNECT_FAILED: {
    retry: 'transient',
    exit: 'unreachable',
    hint: 'Check that the NBD server runs and listens there.',
  },
  NBD_PROTOCOL: {
    retry: 'never',
    exit: 'failed',
    hint: 'The peer broke the NBD protocol; nothing it sent after that was used.',
  },
  NBD_REFUSED: { retry: 'never', exit: 'failed', hint: 'The server refused the option; see its message.' },
  NBD_EXPORT_UNKNOWN: {
    retry: 'never',
    exit: 'notFound',
    hint: 'List the exports of the server, for example with `nbdinfo --list`.',
  },
  NBD_TLS_REQUIRED: {
    retry: 'never',
    exit: 'failed',
    hint: 'Use nbds:// and give certificates or a pre-shared key.',
  },
  NBD_TLS_FAILED: {
    retry: 'never',
    exit: 'failed',
    hint: 'Check certificates, host name, and pre-shared key of both sides.',
  },
  NBD_CONNECTION_LOST: {
    retry: 'transient',
    exit: 'unreachable',
    hint: 'The NBD server went away in the middle of the work.',
  },
  NBD_SERVER_ERROR: {
    retry: 'after-repair',
    exit: 'failed',
    hint: 'The server answered a request with an error; look at its log and its storage.',
  },
  NBD_EXPORT_CHANGED: {
    retry: 'never',
    exit: 'failed',
    hint: 'After reconnecting, the export was not the same any more.',
  },
  NBD_META_CONTEXT_MISSING: {
    retry: 'never',
    exit: 'failed',
    hint: 'The server does not offer the meta context that the work depends on.',
  },

  NBD_LISTEN_FAILED: {
    retry: 'after-repair',
    exit: 'failed',
    hint: 'Choose a path or port that this user may listen on and that nothing else uses.',
  },
  NBD_EXPORT_EXISTS: {
    retry: 'never',
    exit: 'usage',
    hint: 'Choose another export name, or remove that export first.',
  },

  // repository
  REPOSITORY_NOT_FOUND: {
    retry: 'never',
    exit: 'notFound',
    hint: 'Create one with `understudy init`, or point --state to the right directory.',
  },
  REPOSITORY_EXISTS: { retry: 'never', exit: 'usage', hint: 'Choose an empty directory.' },
  REPOSITORY_FORMAT: { retry: 'never', exit: 'failed', hint: 'The repository was written by another version.' },
  REPOSITORY_KEY: { retry: 'never', exit: 'key', hint: 'Give the recovery key that `understudy init` printed.' },
  REPOSITORY_CORRUPT: {
    retry: 'after-repair',
    exit: 'corrupt',
    hint: 'Run `understudy check --read-data` to see which points it touches.',
  },
  OBJECT_EXISTS: {
    retry: 'never',
    exit: 'failed',
    hint: 'An object of that name is there already; it was not touched.',
  },
  OBJECT_NOT_FOUND: {
    retry: 'after-repair',
    exit: 'corrupt',
    hint: 'A file of the repository is missing; run `understudy check`.',
  },
  CHUNK_MISSING: {
    retry: 'after-repair',
    exit: 'corrupt',
    hint: 'Run `understudy catalog rebuild`, then `understudy check`.',
  },

  // catalog
  CATALOG_DAMAGED: {
    retry: 'after-repair',
    exit: 'corrupt',
    hint: 'Run `understudy catalog rebuild`; the repository has everything.',
  },
  POINT_NOT_FOUND: { retry: 'never', exit: 'notFound', hint: 'List the points with `understudy points`.' },
  POINT_AMBIGUOUS: { retry: 'never', exit: 'usage', hint: 'Give more characters of the id.' },
  POINT_IN_USE: {
    retry: 'transient',
    exit: 'busy',
    hint: 'Stop the machine or the export that uses it first; what a journal needs can go when its window has passed.',
  },
  POINT_HELD: {
    retry: 'after-repair',
    exit: 'busy',
    hint: '`understudy release` ends the hold; `understudy point show` says why it is held.',
  },
  POINT_LOCKED: {
    retry: 'never',
    exit: 'busy',
    hint: 'Nobody can delete it before that date, and nothing shortens the lock.',
  },
  MACHINE_NOT_FOUND: { retry: 'never', exit: 'notFound', hint: 'List the machines with `understudy machine list`.' },
  DISK_NOT_FOUND: { retry: 'never', exit: 'notFound', hint: 'Show the disks with `understudy point show`.' },

  // volume
  WRITE_LOG_CORRUPT: {
    retry: 'after-repair',
    exit: 'corrupt',
    hint: 'The write log is damaged before its end; the recovery point beneath it is not.',
  },

  MOMENT_IN_GAP: {
    retry: 'never',
    exit: 'notFound',
    hint: 'Choose one of the moments that `understudy timeline` shows.',
  },
  MOMENT_NOT_FOUND: {
    retry: 'never',
    exit: 'notFound',
    hint: 'See `understudy timeline` for what the journal holds, and `understudy points` for what is older.',
  },

  // hypervisor
  LIBVIRT_UNAVAILABLE: {
    retry: 'after-repair',
    exit: 'unreachable',
    hint: 'Install libvirt (libvirt0) and check that libvirtd runs.',
  },
  LIBVIRT_CONNECT_FAILED: {
    retry: 'transient',
    exit: 'unreachable',
    hint: 'Check the connection URI with `virsh -c URI list`.',
  },
  LIBVIRT_FAILED: { retry: 'after-repair', exit: 'failed', hint: "See libvirt's message, and the log of libvirtd." },
  DOMAIN_NOT_FOUND: { retry: 'never', exit: 'notFound', hint: 'List the machines with `understudy machine list`.' },
  DOMAIN_BUSY: {
    retry: 'transient',
    exit: 'busy',
    hint: 'Another job runs on this machine; wait until it has ended.',
  },
  DOMAIN_EXISTS: { retry: 'never', exit: 'usage', hint: 'Choose another name with --as.' },
  DOMAIN_GONE: {
    retry: 'transient',
    exit: 'failed',
    hint: 'The machine stopped during the work; run the backup again.',
  },
  NO_PROTECTABLE_DISK: {
    retry: 'after-repair',
    exit: 'failed',
    hint: '`understudy machine show` names the reason for each disk.',
  },
  TOOL_MISSING: {
    retry: 'after-repair',
    exit: 'failed',
    hint: 'Install the missing program (`npm run setup` does it).',
  },
  TOOL_FAILED: { retry: 'after-repair', exit: 'failed', hint: 'See the message of the program.' },
  LIBVIRT_CONNECTION_LOST: {
    retry: 'transient',
    exit: 'unreachable',
    hint: 'libvirtd ended or restarted; open a new connection and look at what became of the job.',
  },
  SSH_FAILED: {
    retry: 'transient',
    exit: 'unreachable',
    hint: 'Try `ssh` to that host by hand, as the user and with the key of the URI; nothing must be asked.',
  },
  QEMU_ACCESS: {
    retry: 'after-repair',
    exit: 'failed',
    hint: 'QEMU runs as a user of its own and cannot reach a file of the appliance; see "Permissions" in docs/recovery.md.',
  },
  LIBVIRT_DENIED: {
    retry: 'after-repair',
    exit: 'unreachable',
    hint: 'Give this user access to libvirt, for example through the group `libvirt`, or use qemu:///session.',
  },
  DOMAIN_WRONG_STATE: {
    retry: 'after-repair',
    exit: 'failed',
    hint: 'The machine is not in a state that allows this, for example shut off; look at it with `virsh list --all`.',
  },
  NO_BLOCK_JOB: { retry: 'never', exit: 'notFound', hint: 'No block job runs on this disk any more.' },
  NO_BACKUP_JOB: { retry: 'never', exit: 'notFound', hint: 'No backup job runs on this machine any more.' },
  CHECKPOINT_NOT_FOUND: { retry: 'never', exit: 'notFound', hint: 'The next backup will scan the whole disk.' },
  CHECKPOINT_INCONSISTENT: {
    retry: 'never',
    exit: 'failed',
    hint: 'The dirty bitmap of the checkpoint is broken or missing; the next backup will scan the whole disk.',
  },
  VOLUME_NOT_FOUND: { retry: 'after-repair', exit: 'notFound', hint: 'Check the storage pool with `virsh vol-list`.' },
  AGENT_UNAVAILABLE: {
    retry: 'after-repair',
    exit: 'failed',
    hint: 'Install and start qemu-guest-agent in the guest; without it points are crash-consistent.',
  },
  AGENT_TIMED_OUT: { retry: 'transient', exit: 'failed', hint: 'The guest agent did not answer within its limit.' },
  AGENT_FAILED: { retry: 'transient', exit: 'failed', hint: 'See the message of the guest agent.' },
  DOMAIN_XML_INVALID: { retry: 'never', exit: 'failed', hint: 'The machine definition is not what libvirt writes.' },

  // cbt, protect, recover
  TRACKER_FAILED: { retry: 'transient', exit: 'failed', hint: 'The next backup will scan the whole disk.' },
  BACKUP_UNREACHABLE: {
    retry: 'after-repair',
    exit: 'unreachable',
    hint: 'The hypervisor is another host and its disks cannot be read from here; qemu+ssh:// needs neither ports nor certificates.',
  },
  NOT_QUIESCED: {
    retry: 'transient',
    exit: 'failed',
    hint: 'Install and start qemu-guest-agent in the guest, or let `quiesce` be `try`.',
  },
  SOURCE_CHANGED: {
    retry: 'transient',
    exit: 'failed',
    hint: 'The disk changed its size or identity during the backup; run it again.',
  },
  INCOMPLETE_BACKUP: {
    retry: 'transient',
    exit: 'failed',
    hint: 'Not every byte that was due arrived; no recovery point was made.',
  },
  TARGET_EXISTS: { retry: 'never', exit: 'usage', hint: 'Choose another target, or remove it first.' },
  TARGET_TOO_SMALL: { retry: 'never', exit: 'usage', hint: 'The target must be at least as large as the disk.' },
  TARGET_CHANGED: {
    retry: 'never',
    exit: 'failed',
    hint: 'The machine has another disk there now. Restore to a new machine with --as, or disk by disk with --to.',
  },
  CONFIRMATION_NEEDED: { retry: 'never', exit: 'usage', hint: 'Add --yes when you are sure.' },
  BOOT_FAILED: {
    retry: 'after-repair',
    exit: 'failed',
    hint: 'The point is unchanged; see the message of the hypervisor.',
  },
  MIGRATION_FAILED: {
    retry: 'after-repair',
    exit: 'failed',
    hint: 'The machine goes on running from the appliance; nothing is left at the target.',
  },
  MIGRATION_UNFINISHED: {
    retry: 'after-repair',
    exit: 'busy',
    hint: 'Some of its disks have moved, others have not. `understudy migrate NAME` finishes it.',
  },
  STANDBY_NOT_FOUND: {
    retry: 'never',
    exit: 'notFound',
    hint: 'List the spares with `understudy standby list`; `understudy standby create` makes one.',
  },
  STANDBY_BUSY: {
    retry: 'after-repair',
    exit: 'busy',
    hint: 'A failover of the machine is not over; `understudy standby list` says where it stands.',
  },
  NOT_FENCED: {
    retry: 'after-repair',
    exit: 'failed',
    hint: 'The original may still run: two machines with the same addresses and different disks must not.',
  },
  VERIFY_FAILED: {
    retry: 'after-repair',
    exit: 'corrupt',
    hint: 'What was read back is not what was written; look at the storage of the target.',
  },
  // access
  UNAUTHENTICATED: {
    retry: 'never',
    exit: 'denied',
    hint: 'Log in, or give a valid API token; `understudy token create` makes one.',
  },
  FORBIDDEN: {
    retry: 'never',
    exit: 'denied',
    hint: 'Ask an administrator; docs/access.md says what each role may do.',
  },
  LOGIN_FAILED: { retry: 'never', exit: 'denied', hint: 'Check the name, the password and the code.' },
  SECOND_FACTOR_NEEDED: {
    retry: 'never',
    exit: 'denied',
    hint: 'Send the six digits of the authenticator app, or a recovery code, with the password.',
  },
  LOGIN_LIMITED: {
    retry: 'transient',
    exit: 'busy',
    hint: 'Too many attempts failed; wait as long as the answer says. Others are not affected.',
  },
  APPROVAL_NEEDED: {
    retry: 'after-repair',
    exit: 'busy',
    hint: 'Another administrator does it with `understudy approval approve`; then it is done in your name.',
  },
  LAST_ADMIN: {
    retry: 'after-repair',
    exit: 'usage',
    hint: 'Make another user an administrator first.',
  },
  SIGN_ON_FAILED: {
    retry: 'after-repair',
    exit: 'denied',
    hint: 'Look at the settings of single sign-on on both sides; the log has the reason.',
  },

  // config
  NOT_FOUND: { retry: 'never', exit: 'notFound', hint: 'List what there is; it may have been removed meanwhile.' },
  CONFLICT: {
    retry: 'never',
    exit: 'busy',
    hint: 'It exists already, or somebody else changed it meanwhile: look at it again, then repeat the change.',
  },
  LIMIT_REACHED: {
    retry: 'after-repair',
    exit: 'failed',
    hint: 'Remove what is not needed any more; see docs/limits.md.',
  },
  CONFIG_DAMAGED: {
    retry: 'after-repair',
    exit: 'corrupt',
    hint: 'Nothing of that file was used. Put it back from a copy, or make the appliance anew with `understudy init --from`.',
  },
  AUDIT_DAMAGED: {
    retry: 'after-repair',
    exit: 'corrupt',
    hint: '`understudy audit verify` names the first entry that is not as it was written.',
  },
  CONFIG_FORMAT: { retry: 'never', exit: 'failed', hint: 'The file was written by another version of the program.' },
  SECRET_UNREADABLE: {
    retry: 'after-repair',
    exit: 'key',
    hint: 'Enter the secret again; it was sealed under another key, or moved to another place.',
  },

  // api
  RUN_NOT_FOUND: { retry: 'never', exit: 'notFound', hint: 'List the runs with `understudy runs`.' },
  INTERRUPTED: {
    retry: 'transient',
    exit: 'failed',
    hint: 'The appliance ended while it worked on this; nothing half-done is listed. Start it again.',
  },
  TOO_BUSY: { retry: 'transient', exit: 'busy', hint: 'Wait until some of what runs has ended, and try again.' },
  PATH_UNKNOWN: {
    retry: 'never',
    exit: 'notFound',
    hint: 'The command and the running service may be of different versions; restart the service.',
  },
  IDEMPOTENCY_CONFLICT: {
    retry: 'never',
    exit: 'usage',
    hint: 'An Idempotency-Key names one request; use another key for another request.',
  },
  LISTEN_FAILED: {
    retry: 'after-repair',
    exit: 'failed',
    hint: 'Choose an address of this machine and a port that nothing else uses; below 1024 it needs a privilege.',
  },
  CERTIFICATE_INVALID: {
    retry: 'after-repair',
    exit: 'failed',
    hint: 'Give a certificate that is valid now, with its chain, and its key without a passphrase, as PEM.',
  },
  CERTIFICATE_UNTRUSTED: {
    retry: 'never',
    exit: 'unreachable',
    hint: 'Compare the fingerprint with what `understudy serve` prints, and give it with --fingerprint; or give --ca.',
  },
  SERVICE_UNREACHABLE: { retry: 'transient', exit: 'unreachable', hint: 'Start it with `understudy serve`.' },
} as const;

/** The table, checked against its row type. */
export const ERROR_TABLE: Readonly<Record<ErrorCode, CodeEntry>> = ERROR_CODES;

export type ErrorCode = keyof typeof ERROR_CODES;
