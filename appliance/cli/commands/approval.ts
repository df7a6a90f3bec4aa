// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { ApprovalSummary } from '../../api/schemas/access.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { formatTime, plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { type Column, renderTable } from '../table.ts';

export function addApproval(program: Command, cli: CliRun): void {
  const approval = defineGroup(program, 'approval', 'what waits for a second person');
  defineCommand(approval, cli, {
    usage: 'list',
    summary: 'list what waits for a second person, and what became of it',
    description:
      'With `access set --approvals on`, destructive acts and changes of who may do what wait here until another ' +
      'administrator approves them. Lists them, the newest first.',
    examples: [['understudy approval list', 'with who asked for it']],
    action: list,
  });
  defineCommand<{ readonly breakGlass?: string }>(approval, cli, {
    usage: 'approve <id>',
    summary: 'agree; it is done in the name of the one who asked',
    description:
      'Agrees to a request of somebody else. When enough people have, it is done, in the name of the one who asked and ' +
      'with the state that was meant then. The owner of the state directory agrees with --break-glass only, which needs ' +
      'nobody else and stands in the audit log with its reason.',
    examples: [
      ['understudy approval approve 3f2a91c04b7d8e11', 'as a second administrator'],
      ['understudy approval approve 3f2a91c04b7d8e11 --break-glass "disk full"', 'alone, as the owner'],
    ],
    options: (command) => command.option('--break-glass <reason>', 'go ahead without a second person'),
    action: approve,
  });
  defineCommand(approval, cli, {
    usage: 'deny <id>',
    summary: 'refuse, or take back what you asked for',
    description: 'Refuses a request; it is not done. Whoever asked takes it back in this way.',
    examples: [['understudy approval deny 3f2a91c04b7d8e11', 'nothing is done']],
    action: async (run, [id = '']) => {
      const denied = await run.call('approvalDeny', { id });
      return { value: denied, text: `${plain(denied.operation)} will not be done.\n` };
    },
  });
}

async function list(run: CommandRun): Promise<Outcome> {
  const approvals = await run.call('approvalList', {});
  if (approvals.length === 0) return { value: approvals, text: 'Nothing waits for approval.\n' };
  const columns: Column<ApprovalSummary>[] = [
    { title: 'ID', cell: ({ id }) => id },
    { title: 'STATE', cell: ({ state }) => state },
    { title: 'BY', cell: ({ requestedBy }) => plain(requestedBy.name) },
    { title: 'AT', cell: ({ requestedBy }) => formatTime(requestedBy.at) },
    { title: 'WHAT', cell: ({ operation, params }) => plain(`${operation} ${shown(params)}`.trimEnd()) },
  ];
  return { value: approvals, text: renderTable(approvals, columns, run.paint) };
}

function shown(params: ApprovalSummary['params']): string {
  return Object.entries(params)
    .map(([name, value]) => (typeof value === 'string' ? value : `${name}=${JSON.stringify(value)}`))
    .join(' ');
}

async function approve(
  run: CommandRun,
  [id = '']: readonly string[],
  { breakGlass }: { readonly breakGlass?: string },
): Promise<Outcome> {
  const outcome = await run.call('approvalApprove', defined({ id, breakGlass }));
  const { operation, state, requestedBy } = outcome.approval;
  const standing =
    state === 'pending'
      ? 'More people have to agree.'
      : `${plain(operation)} of ${plain(requestedBy.name)} is ${state}.`;
  return { value: outcome, text: `${standing}\n` };
}
