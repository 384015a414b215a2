import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';

/** A file of a repository. */
export interface HubFile {
  content: Buffer;
  /** Whether it is kept outside git, as large files are: named by SHA-256 and served by another host. */
  large?: boolean;
}

/** How the server misbehaves. */
export interface Misbehaviour {
  /** Status instead of an answer, by path. */
  status?: (path: string) => number | undefined;
  /** Bytes after which a transfer breaks, by file and attempt (from 1); undefined for a whole one. */
  breakAfter?: (file: string, attempt: number) => number | undefined;
  /** Bytes after which a transfer goes silent, likewise. */
  stallAfter?: (file: string, attempt: number) => number | undefined;
  /** Other bytes than those that were promised. */
  corrupt?: (file: string, attempt: number) => boolean;
  /** Whether ranges are ignored. */
  noRanges?: boolean;
  /** Whether a request is never answered, by path. */
  silent?: (path: string) => boolean;
}

/** A request, as the tests look at it. */
export interface SeenRequest {
  path: string;
  range: string | undefined;
  authorization: string | undefined;
}

const COMMIT = '0123456789abcdef0123456789abcdef01234567';

/** A server that speaks the part of the hub's protocol that downloads need. */
export class HubServer {
  readonly requests: SeenRequest[] = [];
  readonly files: Map<string, HubFile>;
  misbehaviour: Misbehaviour = {};
  readonly #repo: string;
  readonly #attempts = new Map<string, number>();
  #hub: Server | undefined;
  #cdn: Server | undefined;

  constructor(repo: string, files: Record<string, HubFile>) {
    this.#repo = repo;
    this.files = new Map(Object.entries(files));
  }

  static readonly commit: string = COMMIT;

  /** Starts; stops when the test ends. */
  async start(): Promise<this> {
    this.#hub = createServer((request, response) => this.#answerHub(request, response));
    this.#cdn = createServer((request, response) => this.#answerCdn(request, response));
    for (const server of [this.#hub, this.#cdn]) {
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      onTestFinished(
        () =>
          new Promise<void>((resolve) => {
            server.close(() => resolve());
            server.closeAllConnections();
          }),
      );
    }
    return this;
  }

  get endpoint(): string {
    return address(this.#hub);
  }

  /** Ranges that were asked for a file, probes of its size left out. */
  ranges(file: string): (string | undefined)[] {
    return this.requests
      .filter((request) => request.path === `/cdn/${file}` && request.range !== 'bytes=0-0')
      .map((request) => request.range);
  }

  #note(request: IncomingMessage): string {
    const { pathname } = new URL(request.url ?? '/', 'http://hub');
    this.requests.push({
      path: pathname,
      range: request.headers.range,
      authorization: request.headers.authorization,
    });
    return pathname;
  }

  #answerHub(request: IncomingMessage, response: ServerResponse): void {
    const path = this.#note(request);
    if (this.misbehaviour.silent?.(path)) return;
    const status = this.misbehaviour.status?.(path);
    if (status !== undefined) {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ error: `status ${status}` }));
      return;
    }
    const json = (value: unknown, headers: Record<string, string> = {}) => {
      response.writeHead(200, { 'content-type': 'application/json', ...headers });
      response.end(JSON.stringify(value));
    };
    if (path === `/api/models/${this.#repo}/revision/main`) {
      json({
        _id: '1',
        id: this.#repo,
        private: false,
        downloads: 1,
        gated: false,
        likes: 1,
        lastModified: '2024-01-01T00:00:00Z',
        sha: COMMIT,
      });
      return;
    }
    const tree = `/api/models/${this.#repo}/tree/${COMMIT}`;
    if (path === tree) {
      // Two pages, as the hub has for many files.
      const entries = this.#listing();
      const middle = Math.ceil(entries.length / 2);
      const second = new URL(request.url ?? '/', 'http://hub').searchParams.has('cursor');
      if (second) json(entries.slice(middle));
      else {
        json(entries.slice(0, middle), { link: `<${this.endpoint}${tree}?cursor=x>; rel="next"` });
      }
      return;
    }
    const resolve = `/${this.#repo}/resolve/${COMMIT}/`;
    const name = path.startsWith(resolve) ? decodeURIComponent(path.slice(resolve.length)) : '';
    const file = this.files.get(name);
    if (file === undefined) {
      response.writeHead(404, {
        'content-type': 'application/json',
        'x-error-code': name === '' ? 'RepoNotFound' : 'EntryNotFound',
      });
      response.end(JSON.stringify({ error: 'not found' }));
      return;
    }
    if (file.large) {
      response.writeHead(302, {
        location: `${address(this.#cdn)}/cdn/${name}`,
        'x-linked-etag': `"${sha256(file.content)}"`,
        'x-linked-size': String(file.content.byteLength),
        'x-repo-commit': COMMIT,
      });
      response.end();
      return;
    }
    this.#send(name, file, request, response);
  }

  #answerCdn(request: IncomingMessage, response: ServerResponse): void {
    const name = this.#note(request).slice('/cdn/'.length);
    const file = this.files.get(name);
    if (file === undefined) {
      response.writeHead(404).end();
      return;
    }
    this.#send(name, file, request, response);
  }

  #send(name: string, file: HubFile, request: IncomingMessage, response: ServerResponse): void {
    const { byteLength: size } = file.content;
    const etag = `"${file.large ? sha256(file.content) : gitSha1(file.content)}"`;
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    const isProbe = range?.[0] === 'bytes=0-0';
    const usesRange = range !== null && (isProbe || !this.misbehaviour.noRanges);
    const start = usesRange ? Number(range[1]) : 0;
    const end = usesRange ? Math.min(Number(range[2]) + 1, size) : size;
    let body = file.content.subarray(start, end);
    const headers: Record<string, string> = {
      etag,
      'accept-ranges': 'bytes',
      'content-length': String(body.byteLength),
    };
    if (usesRange) headers['content-range'] = `bytes ${start}-${end - 1}/${size}`;
    response.writeHead(usesRange ? 206 : 200, headers);
    if (isProbe) {
      response.end(body);
      return;
    }
    const attempt = (this.#attempts.get(name) ?? 0) + 1;
    this.#attempts.set(name, attempt);
    if (this.misbehaviour.corrupt?.(name, attempt)) {
      body = Buffer.from(body);
      body[0] = (body[0] ?? 0) ^ 1;
    }
    const limit = this.misbehaviour.breakAfter?.(name, attempt);
    const stall = this.misbehaviour.stallAfter?.(name, attempt);
    if (limit !== undefined) {
      response.write(body.subarray(0, limit), () => setTimeout(() => response.destroy(), 20));
    } else if (stall !== undefined) response.write(body.subarray(0, stall));
    else response.end(body);
  }

  #listing(): object[] {
    return [...this.files].map(([path, { content, large }]) => ({
      type: 'file',
      path,
      oid: gitSha1(content),
      size: content.byteLength,
      ...(large
        ? { lfs: { oid: sha256(content), size: content.byteLength, pointerSize: 130 } }
        : {}),
    }));
  }
}

export function sha256(content: Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

function gitSha1(content: Buffer): string {
  return createHash('sha1').update(`blob ${content.byteLength}\0`).update(content).digest('hex');
}

function address(server: Server | undefined): string {
  const { port } = (server?.address() ?? { port: 0 }) as AddressInfo;
  return `http://127.0.0.1:${port}`;
}
