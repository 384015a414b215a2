/**
 * The `iceformer` command line as a function, for tests and for programs that embed it.
 * @packageDocumentation
 */
export {
  createInterruption,
  type Interruption,
  type StopCause,
} from './interruption.ts';
export { main, type Surroundings } from './main.ts';
export { loadPackages, type Packages } from './packages.ts';
export type { Streams } from './terminal.ts';
