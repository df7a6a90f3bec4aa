// SPDX-License-Identifier: Apache-2.0
import { type Immutable, type Static, Type } from './type.ts';
import { count, flag, oneOf, params, report, text, word } from './vocabulary.ts';

/** What can be set. */

const name = word('`understudy settings show` and docs/settings.md have the names.');

export const settingParams = params({ name });

export const settingSetParams = params({ name, value: word('`on` and `off` for what can only be one of them.') });

const settingValue = Type.Unknown({ description: 'Text, number or boolean; null for a secret.' });

export const settingReport = report('SettingReport', {
  name: text(),
  value: settingValue,
  isSet: flag('False while the initial value holds.'),
  kind: oneOf(['text', 'flag', 'count', 'secret']),
  initial: settingValue,
  meaning: text(),
  revision: count(),
});

export const settingsResult = Type.Array(settingReport);

export type SettingParams = Immutable<Static<typeof settingParams>>;
export type SettingSetParams = Immutable<Static<typeof settingSetParams>>;
export type SettingReport = Immutable<Static<typeof settingReport>>;
