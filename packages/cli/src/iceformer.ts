#!/usr/bin/env node
import { createRequire } from 'node:module';
import { EXIT } from './failure.ts';
import { createInterruption, listenToSignals } from './interruption.ts';
import { main, report } from './main.ts';
import { loadPackages } from './packages.ts';

const { stdin, stdout, stderr, env } = process;
const { version } = createRequire(import.meta.url)('../package.json') as { version: string };

const interruption = createInterruption();
listenToSignals(interruption, () => stderr.write('\n'));

stdout.on('error', (error: NodeJS.ErrnoException) => {
  // The reader of a pipe may leave (`| head`): that ends the run, and is no failure.
  if (error.code === 'EPIPE') interruption.stop('stdout closed');
  if (interruption.cause === 'stdout closed') return;
  stderr.write(`error ERR_OUTPUT: cannot write the output: ${error.message}\n`);
  process.exit(EXIT.failure);
});
// Nobody is left to be told.
stderr.on('error', () => undefined);

const surroundings = {
  streams: { stdin, stdout, stderr, env },
  interruption,
  loadPackages,
  version,
};
const args = process.argv.slice(2);

// What slips past main() is a bug, and still no reason for a page of stack.
process.on('uncaughtException', (error) => process.exit(report(error, args, surroundings)));

void main(args, surroundings).then((code) => {
  // What is still on its way to a pipe must arrive, and a failed write be heard of; but a standard
  // input left open must not keep us.
  stdout.write('', () => stderr.write('', () => setImmediate(() => process.exit(code))));
});
