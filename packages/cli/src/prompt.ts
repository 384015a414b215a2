import type { GenerateOptions } from '@iceformer/transformer';

/**
 * What the model gets to read. Chat form: the document, an empty line, then the prompt, as one user
 * message. Raw form: the document followed by the prompt, nothing before, between or after.
 */
export function toInput(
  document: string | undefined,
  prompt: string | undefined,
  raw: boolean,
): Pick<GenerateOptions, 'messages' | 'text'> {
  if (raw) return { text: `${document ?? ''}${prompt ?? ''}` };
  const content = [document, prompt].filter((part) => part !== undefined).join('\n\n');
  return { messages: [{ role: 'user', content }] };
}
