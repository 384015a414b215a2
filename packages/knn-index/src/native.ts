// The generated loader of the addon, one place to import it from: beside `src/` and `dist/` alike.
export {
  estimateGroupBytes,
  NativeCancel,
  NativeKnnIndex,
  NativeKnnIndexGroup,
  simdLevel,
  threadPool,
} from '../native/native.js';
