// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { CliTest } from '../support/cli-harness.ts';
import { fakeResults } from '../support/fake-results.ts';
import { suite } from '../support/suite.ts';

const test = suite('export');
const URI = fakeResults.export.uri;

for (const signal of ['SIGINT', 'SIGTERM']) {
  test(`the URI is printed, the export lives until ${signal}, and the exit code is 0`, async () => {
    const cli = new CliTest();
    const running = cli.run('export', 'web@latest');
    await cli.until(() => cli.stdout.includes('\n'));
    assert.equal(cli.stdout, `${URI}\n`);
    assert.equal(cli.appliance.exports.size, 1);
    cli.signal(signal);
    const { exitCode, stdout, stderr } = await running;
    assert.deepEqual([exitCode, stdout], [0, `${URI}\n`]);
    assert.equal(stderr, 'serving vda of point 3f2a91c04b7d8e11, 20 GiB, read-only; Ctrl-C ends it\n');
    assert.equal(cli.appliance.exports.size, 0);
    assert.equal(cli.appliance.isDisposed, true);
  });
}

test('options are passed on, with the socket as an absolute path', async () => {
  const cli = new CliTest();
  const running = cli.run('export', '3f2a', 'vda', '--socket', 'x.sock', '--writable', '--json');
  await cli.until(() => cli.stdout.includes('\n}\n'));
  cli.signal('SIGTERM');
  assert.equal((await running).exitCode, 0);
  const params = { point: '3f2a', disk: 'vda', socket: '/work/here/x.sock', writable: true };
  assert.deepEqual(cli.appliance.calls[0]?.params, params);
  assert.deepEqual(JSON.parse(cli.stdout), fakeResults.export);
  assert.equal(cli.stderr, '');
});

test('an export that cannot be made ends with its error', async () => {
  const missing = new ApplianceError('DISK_NOT_FOUND', 'the point has two disks: vda, vdb');
  const { exitCode, stdout } = await new CliTest({ behaviour: { export: () => Promise.reject(missing) } }).run(
    'export',
    '3f2a',
  );
  assert.deepEqual([exitCode, stdout], [EXIT_CODES.notFound, '']);
});
