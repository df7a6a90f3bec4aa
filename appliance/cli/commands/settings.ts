// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { SettingReport } from '../../api/schemas/settings.ts';
import type { CommandRun, Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { type Column, renderTable } from '../table.ts';

export function addSettings(program: Command, cli: CliRun): void {
  const settings = defineGroup(program, 'settings', 'what can be set');
  defineCommand(settings, cli, {
    usage: 'show',
    summary: 'show what can be set, and what holds',
    description: 'Shows every setting with its value and what it means. Secrets are not shown.',
    examples: [['understudy settings show', 'all of them']],
    action: show,
  });
  defineCommand(settings, cli, {
    usage: 'set <name> <value>',
    summary: 'set something',
    description: 'Sets something, from now on. On and off are values of what can only be one of them.',
    examples: [['understudy settings set audit.syslog journald', 'pass the audit log on']],
    action: async (run, [name = '', value = '']) => outcomeOf(await run.call('settingSet', { name, value })),
  });
  defineCommand(settings, cli, {
    usage: 'reset <name>',
    summary: 'take the initial value again',
    description: 'Takes the initial value again.',
    examples: [['understudy settings reset audit.syslog', 'as it was at first']],
    action: async (run, [name = '']) => outcomeOf(await run.call('settingReset', { name })),
  });
}

async function show(run: CommandRun): Promise<Outcome> {
  const all = await run.call('settings', {});
  const columns: Column<SettingReport>[] = [
    { title: 'NAME', cell: ({ name }) => plain(name) },
    { title: 'VALUE', cell: (setting) => valueText(setting) },
    { title: 'MEANING', cell: ({ meaning }) => plain(meaning) },
  ];
  return { value: all, text: renderTable(all, columns, run.paint) };
}

function outcomeOf(setting: SettingReport): Outcome {
  return { value: setting, text: `${plain(setting.name)} is ${valueText(setting)}.\n` };
}

function valueText({ value, kind, isSet }: SettingReport): string {
  if (kind === 'secret') return isSet ? '(set)' : '(not set)';
  if (kind === 'flag') return value === true ? 'on' : 'off';
  return plain(String(value));
}
