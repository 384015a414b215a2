/** Thrown inside the worker when a call finds itself cancelled and has no partial result to give. */
export class CallCancelled extends Error {
  override readonly name = 'CallCancelled';
}
