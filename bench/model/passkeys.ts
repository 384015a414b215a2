import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { passkeyPrompts, type RetrievalPrompt } from '@iceformer/evaluation';
import { openModel, type Tokenizer } from '@iceformer/model-loader';
import { runJob } from '../job-process.ts';
import { type Engine, type Failure, reasonOf } from './schedule.ts';

/** Prompts that one process answers, one after the other. */
export interface AnswerJob {
  /** Model folder or GGUF file, whichever the engine reads. */
  model: string;
  /** JSON: a list of prompts, each a list of token ids. */
  promptsFile: string;
  /** Most tokens of an answer. */
  maxTokens: number;
  threads: number;
  options: Engine['options'];
}

/** How many keys an engine found. */
export interface PasskeyFigure {
  engine: string;
  found: { length: number; prompts: number; found: number }[];
}

/** Engines that can be asked, by the file beside which their programs lie. */
const ANSWERING: [whole: RegExp, answers: string][] = [
  [/iceformer\.js$/, 'iceformer-answers.js'],
  [/openvino_engine\.py$/, 'openvino_answers.py'],
];

export interface PasskeySettings {
  /** Model folder, for its tokenizer. */
  folder: string;
  /** Text around the keys. */
  text: string;
  lengths: readonly number[];
  /** Prompts in all. */
  count: number;
  threads: number;
  environment: Record<string, string>;
  /** A folder for the prompts. */
  temporary: string;
}

/** Asks every engine that can be asked for the same keys; failures are said and left out. */
export async function findPasskeys(
  engines: readonly Engine[],
  settings: PasskeySettings,
  onFailure: (failure: Failure) => void,
): Promise<PasskeyFigure[]> {
  const { folder, text, lengths, count, threads, environment, temporary } = settings;
  const model = await openModel(folder);
  const tokenizer = await model.tokenizer();
  await model.close();
  const document = readFileSync(text, 'utf8');
  const prompts = passkeyPrompts({ tokenizer, text: document, lengths, count, seed: 1 });
  const promptsFile = join(temporary, 'prompts.json');
  writeFileSync(promptsFile, JSON.stringify(prompts.map(({ tokens }) => [...tokens])));
  const maxTokens = Math.max(...prompts.map((prompt) => prompt.maxTokens));
  const figures: PasskeyFigure[] = [];
  for (const engine of engines) {
    const [program, script = ''] = engine.command;
    const [whole, answers] = ANSWERING.find(([name]) => name.test(script)) ?? [];
    if (whole === undefined || answers === undefined) continue;
    const job: AnswerJob = {
      model: engine.model,
      promptsFile,
      maxTokens,
      threads,
      options: engine.options,
    };
    const command: [string, string] = [program, script.replace(whole, answers)];
    const outcome = await runJob<{ answers: number[][] }>(command, job, environment);
    if (!('result' in outcome)) {
      onFailure({ engine: `${engine.name}, pass keys`, reason: reasonOf(outcome) });
      continue;
    }
    const found = countFound(prompts, outcome.result.answers, tokenizer);
    figures.push({ engine: engine.name, found });
    const hits = found.reduce((sum, of) => sum + of.found, 0);
    process.stderr.write(`pass keys, ${engine.name}: ${hits} of ${prompts.length}\n`);
  }
  return figures;
}

function countFound(
  prompts: readonly RetrievalPrompt[],
  answers: readonly number[][],
  tokenizer: Tokenizer,
): PasskeyFigure['found'] {
  const hits = prompts.map(({ accepts }, index) =>
    accepts(tokenizer.decode(answers[index] ?? [], { skipSpecialTokens: true })),
  );
  return [...new Set(prompts.map(({ length }) => length))].map((length) => {
    const mine = hits.filter((_, index) => prompts[index]?.length === length);
    return { length, prompts: mine.length, found: mine.filter(Boolean).length };
  });
}
