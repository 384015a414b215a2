import { CliError } from './failure.ts';
import type { Packages } from './packages.ts';

/**
 * The folder of a model, as the loader finds it.
 *
 * @throws CliError `ERR_MODEL_NOT_FOUND`, which says how to get a model that could be pulled.
 */
export async function findModel(
  nameOrFolder: string,
  { resolveModel, listModels }: Packages['loader'],
): Promise<string> {
  try {
    return await resolveModel(nameOrFolder);
  } catch (error) {
    const { code, message, details } = error as Partial<CliError>;
    const known = listModels().some((model) => model.name === details?.['model']);
    if (code !== 'ERR_MODEL_NOT_FOUND' || !known) throw error;
    throw new CliError(code, `${message}; to get it: iceformer pull ${nameOrFolder}`, details);
  }
}
