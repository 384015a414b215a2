import type { GenerationProfile, ProfilePart } from '@iceformer/transformer';
import { formatDuration, formatShare } from './figures.ts';

/** What people call the parts; the order is that of the work. */
const NAMES: Record<ProfilePart, string> = {
  embed: 'embedding',
  qkv: 'q, k, v',
  attention: 'attention',
  output: 'output',
  mlp: 'MLP',
  logits: 'logits',
  sampling: 'sampling',
  rest: 'JavaScript, rest',
};

/** Where the time went, as a table: a row for each part, its time and share for the prompt and for the answer. */
export function formatProfile({ prefill, decode }: GenerationProfile): string {
  const phases = [prefill, decode];
  const totals = phases.map((phase) => Object.values(phase).reduce((sum, ms) => sum + ms, 0));
  const line = (name: string, cells: readonly string[]): string =>
    [name.padEnd(16), ...cells.map((cell) => cell.padStart(10))].join('  ');
  const row = (name: string, times: readonly number[]): string =>
    line(
      name,
      times.flatMap((ms, at) => [
        formatDuration(ms),
        formatShare(ms / ((totals[at] as number) || 1)),
      ]),
    );
  return [
    line('time', ['prompt', '', 'answer', '']).trimEnd(),
    ...Object.entries(NAMES).map(([part, name]) =>
      row(
        name,
        phases.map((phase) => phase[part as ProfilePart]),
      ),
    ),
    row('all', totals),
  ].join('\n');
}
