// The generated loader of the addon, one place to import it from: beside `src/` and `dist/` alike.
export {
  estimateGroupBytes,
  NativeBytes,
  NativeCancel,
  NativeChange,
  NativeKnnIndex,
  NativeKnnIndexGroup,
  NativeRequest,
  simdLevel,
  threadPool,
} from '../native/native.js';
