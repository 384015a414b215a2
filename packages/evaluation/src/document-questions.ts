import { EvaluationError } from './evaluation-error.ts';
import {
  encodeRaw,
  mentions,
  type PromptSource,
  promptGrid,
  type RetrievalPrompt,
} from './retrieval-prompt.ts';
import { SeededRandom } from './seeded-random.ts';

/** A question about a text, with what answers it. */
export interface DocumentQuestion {
  question: string;
  /** Any of these phrases in the answer is right; whole words, in any case. */
  answers: readonly string[];
  /** The passage that answers it, as it stands in the text. */
  evidence: string;
}

/** Questions about the texts of `docs/corpus`. A question belongs to every text that holds its evidence. */
export const CORPUS_QUESTIONS: readonly DocumentQuestion[] = [
  // Esther
  {
    question: 'Who was hanged on the gallows that had been prepared for Mordecai?',
    answers: ['Haman'],
    evidence: 'So they hanged Haman on the gallows that he had prepared for Mordecai.',
  },
  {
    question: 'Which queen refused to come when the king Ahasuerus commanded it?',
    answers: ['Vashti'],
    evidence: "But the queen Vashti refused to come at the king's commandment by his chamberlains",
  },
  {
    question: 'How high was the gallows to be made, in cubits?',
    answers: ['fifty', '50'],
    evidence: 'Let a gallows be made of fifty cubits high',
  },
  {
    question: 'How many talents of silver did Haman offer to pay?',
    answers: ['ten thousand', '10,000', '10000'],
    evidence: 'I will pay ten thousand talents of silver',
  },
  {
    question: 'Who brought up Esther, whose father and mother were dead?',
    answers: ['Mordecai'],
    evidence: "And he brought up Hadassah, that is, Esther, his uncle's daughter",
  },
  // Genesis
  {
    question: 'Of which wood was the ark to be made?',
    answers: ['gopher'],
    evidence: 'Make thee an ark of gopher wood',
  },
  {
    question: 'How long was the ark to be, in cubits?',
    answers: ['three hundred', '300'],
    evidence: 'The length of the ark shall be three hundred cubits',
  },
  {
    question: 'On the mountains of which land did the ark rest?',
    answers: ['Ararat'],
    evidence: 'upon the mountains of Ararat.',
  },
  {
    question: 'For how many pieces of silver was Joseph sold?',
    answers: ['twenty', '20'],
    evidence: 'sold Joseph to the Ishmeelites for twenty pieces of silver',
  },
  {
    question: 'Who was the brother of Rebekah?',
    answers: ['Laban'],
    evidence: 'And Rebekah had a brother, and his name was Laban',
  },
  {
    question: 'How many years did Jacob serve for Rachel?',
    answers: ['seven', '7'],
    evidence: 'I will serve thee seven years for Rachel thy younger daughter.',
  },
  {
    question: 'In which cave did Abraham bury Sarah?',
    answers: ['Machpelah'],
    evidence: 'Abraham buried Sarah his wife in the cave of the field of Machpelah before Mamre',
  },
  {
    question: 'What did the father make for Joseph, whom he loved more than all his children?',
    answers: ['coat'],
    evidence: 'and he made him a coat of many colours.',
  },
  // SQLite's file format
  {
    question: 'At which offset does the 2-byte integer stand that determines the page size?',
    answers: ['16', 'sixteen'],
    evidence: 'The two-byte value beginning at offset 16 determines the page size of the database.',
  },
  {
    question: 'What is the maximum page number of a database file?',
    answers: ['4294967294'],
    evidence: 'The maximum page number is 4294967294 (2^32 - 2).',
  },
  {
    question: 'At which offset does the file change counter stand?',
    answers: ['24', 'twenty-four'],
    evidence: 'The file change counter is a 4-byte big-endian integer at offset 24',
  },
  {
    question: 'At which offset does the schema cookie stand?',
    answers: ['40', 'forty'],
    evidence: 'The schema cookie is a 4-byte big-endian integer at offset 40',
  },
  {
    question: 'Which operating system made the lock-byte page necessary?',
    answers: ['Win95', 'Windows 95'],
    evidence: 'The lock-byte page arose from the need to support Win95',
  },
  // stb_ds.h
  {
    question: 'Who wrote stb_ds.h?',
    answers: ['Sean Barrett', 'Barrett'],
    evidence: 'public domain data structures - Sean Barrett 2019',
  },
  {
    question: 'Which macro removes the final element of the array and returns it?',
    answers: ['arrpop'],
    evidence: 'Removes the final element of the array and returns it.',
  },
  {
    question: 'Which flag makes stb_ds.h use specification-compliant SipHash-2-4 for all keys?',
    answers: ['STBDS_SIPHASH_2_4'],
    evidence: '#define STBDS_SIPHASH_2_4',
  },
  {
    question: 'Which macro appends an item to the end of an array?',
    answers: ['arrput'],
    evidence: 'Appends the item b to the end of array a. Returns b.',
  },
];

/** The questions whose evidence stands in a text. */
export function questionsAbout(
  text: string,
  questions: readonly DocumentQuestion[] = CORPUS_QUESTIONS,
): DocumentQuestion[] {
  return questions.filter(({ evidence }) => text.includes(evidence));
}

const INTRODUCTION = 'Read the text. Afterwards a question about it is asked.\n\n';
const ending = (question: string): string =>
  `\n\nThat was the text.\nQuestion: ${question}\nAnswer:`;

/**
 * Questions about a long text: an excerpt of the wanted length that holds the question's evidence at the wanted depth,
 * as far as the text reaches to both sides, and the question at the end.
 *
 * @throws {@link EvaluationError} `ERR_NO_QUESTIONS` if the text holds no question's evidence
 */
export function documentQuestionPrompts(
  source: PromptSource,
  questions: readonly DocumentQuestion[] = CORPUS_QUESTIONS,
): RetrievalPrompt[] {
  const { tokenizer, text, lengths, count, seed } = source;
  const own = questionsAbout(text, questions);
  if (own.length === 0) {
    throw new EvaluationError(
      'ERR_NO_QUESTIONS',
      `none of the ${questions.length} questions is about this text`,
      { questions: questions.length },
    );
  }
  const random = new SeededRandom(seed);
  const asked = random.shuffled(own);
  const lines = text.split('\n');
  const sizes = lines.map((line) => encodeRaw(tokenizer, `${line}\n`).length);
  const starts = [0]; // offset in the text of each line
  for (const line of lines) starts.push((starts.at(-1) as number) + line.length + 1);
  const lineAt = (offset: number): number =>
    starts.findIndex((start, line) => offset < (starts[line + 1] ?? Infinity) && offset >= start);
  return promptGrid(lengths, count).map(({ length, depth }, index) => {
    const { question, answers, evidence } = asked[index % asked.length] as DocumentQuestion;
    const begin = text.indexOf(evidence);
    let first = lineAt(begin);
    let last = lineAt(begin + evidence.length - 1);
    const size = (from: number, to: number): number =>
      sizes.slice(from, to + 1).reduce((sum, tokens) => sum + tokens, 0);
    const room = length - encodeRaw(tokenizer, INTRODUCTION + ending(question)).length;
    const own = size(first, last);
    const evidenceLine = first;
    let [before, after] = [0, 0];
    for (;;) {
      const left = first > 0 ? (sizes[first - 1] as number) : Infinity;
      const right = last + 1 < lines.length ? (sizes[last + 1] as number) : Infinity;
      const used = own + before + after;
      const wantsLeft = before <= depth * (before + after);
      if (left <= room - used && (wantsLeft || right > room - used)) {
        first--;
        before += left;
      } else if (right <= room - used) {
        last++;
        after += right;
      } else break;
    }
    const excerpt = lines.slice(first, last + 1).join('\n');
    return {
      length,
      depth: (evidenceLine - first) / Math.max(1, last - first),
      expected: answers[0] as string,
      tokens: encodeRaw(tokenizer, INTRODUCTION + excerpt + ending(question)),
      maxTokens: 24,
      accepts: (answer) => mentions(answer.trimStart().split('\n', 1)[0] ?? '', answers),
    };
  });
}
