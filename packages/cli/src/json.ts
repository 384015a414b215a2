/** One line of JSON. Typed arrays and big integers, which JSON has not, become arrays and numbers. */
export function toJson(value: unknown): string {
  return `${JSON.stringify(value, (_key, item: unknown) => {
    if (typeof item === 'bigint') return Number(item);
    if (ArrayBuffer.isView(item) && !(item instanceof DataView)) {
      return Array.from(item as unknown as ArrayLike<number>);
    }
    return item;
  })}\n`;
}
