import type { Failure } from './failure.ts';

/** What to do about an error, in the words of the command line, which the packages do not know. */
const HINTS: Readonly<Record<string, string>> = {
  ERR_CHAT_TEMPLATE_MISSING: '--raw gives it plain text',
  ERR_PROMPT_TOO_LONG: '--context with --rope-scaling makes room, a shorter document needs none',
  ERR_NOT_ENOUGH_MEMORY: 'fewer tokens, --dtype int8 or --kv-dtype int8 need less',
  ERR_NOT_FINITE: "the model's weights are damaged",
  ERR_NON_FINITE_LOGITS: "the model's weights are damaged",
  ERR_TEXT_TOO_SHORT: 'a smaller --context, or a longer text',
};

/** The failure with the hint for its code, if there is one. */
export function withHint(failure: Failure): Failure {
  const hint = HINTS[failure.code];
  return hint === undefined ? failure : { ...failure, message: `${failure.message} (${hint})` };
}
