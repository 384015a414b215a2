import { types } from 'node:util';
import { KnnIndexError } from './knn-index-error.ts';

// Only JavaScript can get these wrong; everything else is checked by the native side. Arrays are told by what they
// are, not by `instanceof`: test runners and `node:vm` have constructors of their own.

/** @throws {@link KnnIndexError} `ERR_ARRAY_TYPE` */
export function floats(name: string, array: unknown): Float32Array {
  if (!types.isFloat32Array(array)) {
    throw wrongArray(name, 'a Float32Array', array);
  }
  return array;
}

/** @throws {@link KnnIndexError} `ERR_ARRAY_TYPE` */
export function bytes(name: string, array: unknown): Uint8Array {
  if (!types.isUint8Array(array)) {
    throw wrongArray(name, 'a Uint8Array', array);
  }
  return array;
}

export function wrongArray(name: string, wanted: string, array: unknown): KnnIndexError {
  const hint =
    Array.isArray(array) && wanted.endsWith('Array')
      ? `: try ${wanted.slice(2)}.from(${name})`
      : '';
  return new KnnIndexError(
    'ERR_ARRAY_TYPE',
    `${name} must be ${wanted}, not ${kind(array)}${hint}`,
    {
      what: name,
      actual: kind(array),
    },
  );
}

/**
 * A flat array of vectors.
 * @throws {@link KnnIndexError} `ERR_ARRAY_TYPE`, `ERR_DIMENSION_MISMATCH`
 */
export function rows(name: string, array: unknown, dimensions: number): Float32Array {
  const found = floats(name, array);
  if (found.length % dimensions !== 0) {
    throw new KnnIndexError(
      'ERR_DIMENSION_MISMATCH',
      `${name} holds ${found.length} numbers, which is not a multiple of the ${dimensions} dimensions of the index`,
      { what: name, length: found.length, dimensions },
    );
  }
  return found;
}

/**
 * One vector.
 * @throws {@link KnnIndexError} `ERR_ARRAY_TYPE`, `ERR_DIMENSION_MISMATCH`
 */
export function row(name: string, array: unknown, dimensions: number): Float32Array {
  const found = floats(name, array);
  if (found.length !== dimensions) {
    throw new KnnIndexError(
      'ERR_DIMENSION_MISMATCH',
      `${name} has ${found.length} dimensions, the index has ${dimensions}`,
      { what: name, actual: found.length, expected: dimensions },
    );
  }
  return found;
}

/** Memory that another thread may write meanwhile is copied first. */
export function unshared<A extends Float32Array | Float64Array | BigUint64Array | Uint8Array>(
  array: A,
): A {
  return isShared(array) ? (array.slice() as A) : array;
}

/** True if other threads can write the array's memory. */
export function isShared(array: ArrayBufferView): boolean {
  return types.isSharedArrayBuffer(array.buffer);
}

/** @throws {@link KnnIndexError} `ERR_OPTION`, or `ERR_DIMENSIONS` where a number of dimensions is meant. */
export function integer(name: string, value: unknown, min: number, max: number): number {
  if (!Number.isInteger(value) || (value as number) < min || (value as number) > max) {
    const code = name.toLowerCase().endsWith('dimensions') ? 'ERR_DIMENSIONS' : 'ERR_OPTION';
    const message = `${name} is ${shown(value)}, it must be a whole number between ${min} and ${max}`;
    throw new KnnIndexError(code, message, { [name]: value, min, max });
  }
  return value as number;
}

/** @throws {@link KnnIndexError} `ERR_OPTION` */
export function oneOf<T extends string>(name: string, value: unknown, allowed: readonly T[]): T {
  if (!allowed.includes(value as T)) {
    throw new KnnIndexError(
      'ERR_OPTION',
      `${name} is ${shown(value)}, it must be one of ${allowed.join(', ')}`,
      { [name]: value, allowed },
    );
  }
  return value as T;
}

/** @throws {@link KnnIndexError} `ERR_OPTION` */
export function flag(name: string, value: unknown): boolean {
  if (typeof value !== 'boolean') {
    throw new KnnIndexError('ERR_OPTION', `${name} is ${shown(value)}, it must be true or false`, {
      [name]: value,
    });
  }
  return value;
}

/**
 * A number; its range is checked by the native side.
 * @throws {@link KnnIndexError} with `code`
 */
export function number(name: string, value: unknown, code: string, wanted = 'a number'): number {
  if (typeof value !== 'number') {
    throw new KnnIndexError(code, `${name} is ${shown(value)}, it must be ${wanted}`, {
      [name]: value,
    });
  }
  return value;
}

/** @throws {@link KnnIndexError} `ERR_OPTION` */
export function record<T extends object>(options: T, needed: string): T {
  if (typeof options !== 'object' || options === null) {
    throw new KnnIndexError('ERR_OPTION', `options must be an object with at least ${needed}`, {
      options,
    });
  }
  return options;
}

/** A value as an error message names it. */
export function shown(value: unknown): string {
  if (typeof value === 'string') {
    return `"${value}"`;
  }
  if (typeof value === 'bigint') {
    return `${value}n`;
  }
  return typeof value === 'object' && value !== null ? kind(value) : String(value);
}

function kind(value: unknown): string {
  if (value === undefined || value === null) {
    return String(value);
  }
  return Array.isArray(value) ? 'an array' : (Object(value).constructor?.name ?? typeof value);
}
