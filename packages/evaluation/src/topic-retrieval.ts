import {
  encodeRaw,
  mentions,
  type PromptSource,
  promptGrid,
  type RetrievalPrompt,
} from './retrieval-prompt.ts';
import { SeededRandom } from './seeded-random.ts';

const TOPICS = [
  'how bees make honey',
  'the rules of chess',
  'baking rye bread',
  'the moons of Jupiter',
  'learning to swim',
  'the history of paper',
  'growing tomatoes',
  'medieval castles',
  'playing the violin',
  'volcanoes under the sea',
  'training a sheepdog',
  'the invention of the bicycle',
  'restoring old furniture',
  'the migration of storks',
  'making soap at home',
  'the building of railways',
  'desert plants',
  'photographing the night sky',
  'the life of beavers',
  'sailing against the wind',
  'the alphabet of the Phoenicians',
  'wool and weaving',
  'repairing a leaking roof',
  'coral reefs',
  'the game of go',
  'pickling vegetables',
  'lighthouses of the north',
  'how glaciers move',
  'training for a marathon',
  'clocks with pendulums',
  'wild mushrooms',
  'the art of origami',
] as const;

const OPENINGS = [
  (topic: string) => `Let us talk about ${topic}.`,
  (topic: string) => `Now I would like to discuss ${topic}.`,
  (topic: string) => `Can we turn to ${topic}?`,
  (topic: string) => `My next subject is ${topic}.`,
];
const REMARKS = [
  'Where should a beginner start?',
  'What do most people get wrong about it?',
  'Is there a book you would recommend?',
  'How did people do this a hundred years ago?',
  'What surprised you most about it?',
  'Does it take much time?',
  'Which part of it is the hardest?',
  'Do experts agree on that?',
  'What would you tell a child about it?',
  'Why does it matter today?',
];
const REPLIES = [
  'That depends on what you already know, but small steps and patience help more than anything else.',
  'There are several opinions, and the careful answer is that the details matter more than the rule.',
  'Many begin with too much at once. It is better to look closely at one thing and then go on.',
  'A good way is to watch somebody who has done it for years, and to ask why and not only how.',
  'The old methods were slower, yet they show clearly what is going on, so they are worth a look.',
  'I would say that the beginning is the hardest part; after that, habits carry most of the work.',
  'People have argued about this for a long time, and both sides have some evidence for their view.',
  'It takes less equipment than one might think, and more attention than most people give to it.',
];

const INTRODUCTION =
  'Below is a record of a conversation about several topics, one after another.\n\n';
const ORDINALS = ['first', 'second', 'third'] as const;
const question = (ordinal: string): string =>
  `\nThat was the conversation.\nQuestion: What was the ${ordinal} topic that was discussed?\nAnswer: The ${ordinal} topic was`;

/**
 * Topic retrieval, as in LongEval (Li et al. 2023): a conversation about one topic after another, as many as fill the
 * prompt, and the question for one of the first. Depth says which: the first, second or third, as far as there are
 * that many. The text of the source is not used.
 */
export function topicRetrievalPrompts(source: Omit<PromptSource, 'text'>): RetrievalPrompt[] {
  const { tokenizer, lengths, count, seed } = source;
  const random = new SeededRandom(seed);
  const size = (text: string): number => encodeRaw(tokenizer, text).length;
  return promptGrid(lengths, count).map(({ length, depth }) => {
    const room = length - size(INTRODUCTION + question('second'));
    // LongEval's conversations have a few hundred tokens a topic; a longer prompt has longer ones, never a topic twice.
    const perTopic = Math.max(80, Math.ceil(room / 12));
    const topics = random.shuffled(TOPICS);
    const talks: string[] = [];
    let used = 0;
    for (const topic of topics) {
      let talk = `User: ${random.pick(OPENINGS)(topic)}\nAssistant: Gladly. ${random.pick(REPLIES)}\n`;
      let tokens = size(talk);
      if (used + tokens > room && talks.length > 0) break;
      for (;;) {
        const more = `User: ${random.pick(REMARKS)}\nAssistant: ${random.pick(REPLIES)}\n`;
        const longer = tokens + size(more);
        if (longer > perTopic || used + longer > room) break;
        talk += more;
        tokens = longer;
      }
      talks.push(talk);
      used += tokens;
    }
    const askable = Math.min(ORDINALS.length, talks.length);
    const asked = Math.min(askable - 1, Math.floor(depth * askable));
    const topic = topics[asked] as string;
    const prompt = INTRODUCTION + talks.join('') + question(ORDINALS[asked] as string);
    return {
      length,
      depth: asked / talks.length,
      expected: topic,
      tokens: encodeRaw(tokenizer, prompt),
      maxTokens: 16,
      accepts: (answer) => mentions(answer, [topic]),
    };
  });
}
