import { readFile } from 'node:fs/promises';
import type { AttentionPlan, readPlan } from '@iceformer/sparse-attention';
import { CliError } from './failure.ts';

/**
 * Reads a plan for a model of `layers` layers.
 *
 * @throws CliError `ERR_PLAN_UNREADABLE` for a file that is missing or not JSON; for anything wrong
 * with the plan itself what `readPlan` throws.
 */
export async function readPlanFile(
  path: string,
  layers: number,
  read: typeof readPlan,
): Promise<AttentionPlan> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw unreadable(path, `cannot be read: ${(error as Error).message}`);
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw unreadable(path, `is not JSON: ${(error as Error).message}`);
  }
  return read(json, layers);
}

function unreadable(path: string, reason: string): CliError {
  return new CliError('ERR_PLAN_UNREADABLE', `the plan ${path} ${reason}`, { path });
}
