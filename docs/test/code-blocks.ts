/** A fenced block of a Markdown file. */
export interface CodeBlock {
  readonly language: string;
  readonly text: string;
  /** Line of the opening fence, from 1. */
  readonly line: number;
  /** What the block prints, where a `text` block stands directly below it. */
  readonly output?: string;
}

/** The fenced blocks of a Markdown text, in order. */
export function codeBlocks(markdown: string): CodeBlock[] {
  const fence = /^```(\w+)\n([\s\S]*?)^```$/gm;
  const found = [...markdown.matchAll(fence)].map((match) => ({
    language: match[1] ?? '',
    text: match[2] ?? '',
    start: match.index,
    end: match.index + match[0].length,
    line: markdown.slice(0, match.index).split('\n').length,
  }));
  return found.map(({ language, text, line, end }, index) => {
    const next = found[index + 1];
    const isOutput = next?.language === 'text' && markdown.slice(end, next.start).trim() === '';
    return { language, text, line, ...(isOutput && { output: next.text }) };
  });
}
