/**
 * What sparse attention costs in accuracy, measured against dense attention, and plans that keep a stated one.
 * @packageDocumentation
 */
export { type Option, spendLoss } from './budget.ts';
export {
  CALIBRATION_CANDIDATES,
  type CalibrateOptions,
  type CalibrationProgress,
  type CalibrationResult,
  type CandidateMeasurement,
  calibrate,
  type VerifiedPlan,
} from './calibrate.ts';
export {
  type BootstrapOptions,
  bootstrapMean,
  type Estimate,
  mapEstimate,
  type ShareEstimate,
  wilson,
} from './confidence.ts';
export {
  CORPUS_QUESTIONS,
  type DocumentQuestion,
  documentQuestionPrompts,
  questionsAbout,
} from './document-questions.ts';
export {
  EVALUATION_TASKS,
  type EvaluatedAttention,
  type EvaluateOptions,
  type EvaluationProgress,
  type EvaluationResult,
  type EvaluationTask,
  evaluate,
  RETRIEVAL_TASKS,
  type RetrievalTask,
  textHash,
} from './evaluate.ts';
export { EvaluationError } from './evaluation-error.ts';
export { lineRetrievalPrompts } from './line-retrieval.ts';
export { passkeyPrompts } from './passkey.ts';
export {
  type PredictionResult,
  type PredictionScore,
  type PredictOptions,
  perplexityRatio,
  predictText,
} from './prediction.ts';
export { renderReport } from './report.ts';
export {
  type AskOptions,
  askPrompts,
  DENSE,
  type NamedAttention,
  type RetrievalAnswer,
  type RetrievalResult,
  type RetrievalScore,
} from './retrieval.ts';
export type { PromptSource, RetrievalPrompt } from './retrieval-prompt.ts';
export { topicRetrievalPrompts } from './topic-retrieval.ts';
