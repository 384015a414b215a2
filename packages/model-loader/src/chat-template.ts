import { Template } from '@huggingface/jinja';
import { ModelLoaderError, reasonOf } from './model-loader-error.ts';

/** A message of a conversation. */
export interface ChatMessage {
  /** `system`, `user`, `assistant`, or another role the model's template knows. */
  role: string;
  /** Its text. */
  content: string;
  /** Further fields some templates read, for example `tool_calls`. */
  [field: string]: unknown;
}

/** Options of {@link Tokenizer.applyChatTemplate}. */
export interface ChatTemplateOptions {
  /** Whether to end with the opening of the assistant's turn. Defaults to false. */
  addGenerationPrompt?: boolean;
  /** Tools the model may call, passed to the template as they are. */
  tools?: unknown[];
  /** Further variables for the template, for example `{ enable_thinking: false }`. */
  variables?: Record<string, unknown>;
}

/** The chat template of a model: a Jinja program that writes a conversation as text. */
export class ChatTemplate {
  readonly #template: Template;
  readonly #specialTokens: Record<string, string>;

  /** @throws {@link ModelLoaderError} `ERR_CHAT_TEMPLATE_INVALID` when the program cannot be parsed. */
  constructor(source: string, specialTokens: Record<string, string>) {
    try {
      this.#template = new Template(source);
    } catch (error) {
      throw new ModelLoaderError(
        'ERR_CHAT_TEMPLATE_INVALID',
        `the chat template cannot be parsed: ${reasonOf(error)}`,
        {},
        error,
      );
    }
    this.#specialTokens = specialTokens;
  }

  /** @throws {@link ModelLoaderError} `ERR_CHAT_TEMPLATE_INVALID` when the template refuses the messages. */
  render(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    try {
      return this.#template.render({
        ...this.#specialTokens,
        ...options.variables,
        messages,
        tools: options.tools ?? null,
        add_generation_prompt: options.addGenerationPrompt ?? false,
      });
    } catch (error) {
      throw new ModelLoaderError(
        'ERR_CHAT_TEMPLATE_INVALID',
        `the chat template failed: ${reasonOf(error)}`,
        {},
        error,
      );
    }
  }
}
