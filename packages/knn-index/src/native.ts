// The generated loader of the addon, one place to import it from: beside `src/` and `dist/` alike.
export * from '../native/native.js';
