import { readFile } from 'node:fs/promises';
import type { DocumentQuestion } from '@iceformer/evaluation';
import { CliError } from './failure.ts';

/**
 * Reads questions about a text: a JSON list of `{"question", "answers", "evidence"}`.
 *
 * @throws CliError `ERR_QUESTIONS_UNREADABLE` for a file that is missing, not JSON, or of another form
 */
export async function readQuestionFile(path: string): Promise<DocumentQuestion[]> {
  const unreadable = (reason: string): CliError =>
    new CliError('ERR_QUESTIONS_UNREADABLE', `the questions ${path} ${reason}`, { path });
  let json: unknown;
  try {
    json = JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    throw unreadable(`cannot be read: ${(error as Error).message}`);
  }
  if (!Array.isArray(json)) throw unreadable('are not a JSON list');
  for (const [index, entry] of json.entries()) {
    const { question, answers, evidence } = (entry ?? {}) as Partial<DocumentQuestion>;
    const text = (value: unknown): boolean => typeof value === 'string' && value !== '';
    if (text(question) && text(evidence) && Array.isArray(answers) && answers.length > 0) {
      if (answers.every(text)) continue;
    }
    throw unreadable(
      `have an entry ${index} that is not {"question": text, "answers": [texts], "evidence": text}`,
    );
  }
  return json as DocumentQuestion[];
}
