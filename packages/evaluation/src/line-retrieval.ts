import {
  encodeRaw,
  type PromptSource,
  promptGrid,
  type RetrievalPrompt,
  startsWithNumber,
} from './retrieval-prompt.ts';
import { SeededRandom } from './seeded-random.ts';

const ADJECTIVES = (
  'amber ancient bitter blue bold brief bright calm clever cold cosmic crisp curly damp daring deep dim distant dusty ' +
  'eager early faint fancy fierce final flat fresh frosty gentle giant glad golden grand gray green happy hasty hidden ' +
  'hollow humble icy idle jolly keen kind large late lazy light little lively lone loud lucky mellow merry mild misty ' +
  'modern muddy narrow neat nimble noble odd old pale patient plain polite proud pure quick quiet rapid rare red rich ' +
  'rough round royal rusty salty sandy sharp shiny short shy silent silver simple sleepy slim slow small smooth soft'
).split(' ');
const NOUNS = (
  'acorn anchor apple arrow badge bamboo banjo barrel basket beacon beetle bell berry boat bottle bridge broom bucket ' +
  'button cabin cable camel candle canyon carpet castle cedar chalk cherry cliff clock cloud clover comet compass copper ' +
  'coral cotton cradle crane creek crystal curtain daisy desert dolphin door drum eagle echo ember engine falcon feather ' +
  'fence ferry field flame flute forest fossil fountain fox garden garlic glacier glove granite grape guitar hammer harbor ' +
  'hazel hedge heron hill honey horizon island ivory jacket jungle kettle key kite ladder lagoon lamp lantern lark leaf'
).split(' ');

const INTRODUCTION =
  'Below is a record of registers. Each line names one register and the number it holds. Memorize them: ' +
  'afterwards you are asked for the number of one of them.\n\n';
const line = (name: string, number: string): string => `Register ${name} holds <${number}>.\n`;
const question = (name: string): string =>
  `\nThat was the record. What number does register ${name} hold?\nRegister ${name} holds <`;

/**
 * Line retrieval, as in LongEval (Li et al. 2023): a record of lines, each with a name of two words and a number of five
 * digits, as many as fill the prompt, and the question for one of the numbers. Names do not repeat. The text of the
 * source is not used.
 */
export function lineRetrievalPrompts(source: Omit<PromptSource, 'text'>): RetrievalPrompt[] {
  const { tokenizer, lengths, count, seed } = source;
  const random = new SeededRandom(seed);
  const size = (text: string): number => encodeRaw(tokenizer, text).length;
  const names = ADJECTIVES.flatMap((adjective) => NOUNS.map((noun) => `${adjective}-${noun}`));
  return promptGrid(lengths, count).map(({ length, depth }) => {
    const shuffled = random.shuffled(names);
    const room = length - size(INTRODUCTION + question(shuffled[0] as string));
    const lines: { name: string; number: string }[] = [];
    for (let tokens = 0; lines.length < shuffled.length; ) {
      const next = {
        name: shuffled[lines.length] as string,
        number: String(10000 + random.below(90000)),
      };
      tokens += size(line(next.name, next.number));
      if (tokens > room && lines.length > 0) break;
      lines.push(next);
    }
    const asked = lines[Math.min(lines.length - 1, Math.floor(depth * lines.length))] as {
      name: string;
      number: string;
    };
    const record = lines.map(({ name, number }) => line(name, number)).join('');
    return {
      length,
      depth,
      expected: asked.number,
      tokens: encodeRaw(tokenizer, INTRODUCTION + record + question(asked.name)),
      maxTokens: 10,
      accepts: (answer) => startsWithNumber(answer, asked.number),
    };
  });
}
