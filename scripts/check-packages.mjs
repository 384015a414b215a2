import { existsSync } from 'node:fs';
import {
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { pnpm, ROOT, run, StepError, start } from './step.mjs';

/**
 * Packs every package as it would be published and tries the archives as a user would: publint and attw on each,
 * then all of them installed into an empty project, imported, and required (which fails if anything in a package's
 * import graph uses a top-level await). The index is also installed alone, by npm, without a network and with nothing
 * but Node on the PATH.
 */
export async function checkPackages() {
  const folder = await mkdtemp(join(tmpdir(), 'iceformer-packages-'));
  try {
    const packages = await readPackages();
    checkTargets(packages);
    const archives = {};
    for (const { path, manifest } of packages) {
      archives[manifest.name] = await pack(path, folder);
      if (manifest.napi) {
        const [name, archive] = await packPlatform(path, manifest, folder);
        archives[name] = archive;
      }
    }
    for (const { manifest } of packages) {
      const archive = archives[manifest.name];
      await checkContents(archive);
      await pnpm(['exec', 'publint', 'run', '--strict', archive]);
      await pnpm(['exec', 'attw', '--profile', 'esm-only', '--format', 'ascii', archive]);
    }
    await tryInstalled(packages, archives, join(folder, 'consumer'));
    await tryIndexAlone(archives, join(folder, 'alone'));
    console.log(`${packages.length} packages packed, checked, installed and loaded`);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function readPackages() {
  const names = await readdir(join(ROOT, 'packages'));
  return Promise.all(
    names.map(async (name) => {
      const path = join(ROOT, 'packages', name);
      return { path, manifest: JSON.parse(await readFile(join(path, 'package.json'), 'utf8')) };
    }),
  );
}

/** The two addons work in one process, so they must exist for the same platforms. */
function checkTargets(packages) {
  const [first, ...others] = packages.filter(({ manifest }) => manifest.napi);
  for (const other of others) {
    const [a, b] = [first, other].map(({ manifest }) => manifest.napi.targets.join(' '));
    if (a !== b) {
      throw new StepError(
        `${first.manifest.name} is built for ${a}, ${other.manifest.name} for ${b}: one process needs both`,
      );
    }
  }
}

/** pnpm adds the root's LICENSE and turns `workspace:` ranges into versions. @returns the archive's path */
async function pack(path, folder) {
  const args = ['pack', '--json', '--pack-destination', folder];
  return JSON.parse(await pnpm(args, { cwd: path, capture: true })).filename;
}

/** What `napi create-npm-dirs` and `napi artifacts` make in a release, for this machine's platform only. */
async function packPlatform(path, manifest, folder) {
  const [binary, ...more] = (await readdir(join(path, 'native'))).filter((f) =>
    f.endsWith('.node'),
  );
  if (!binary || more.length > 0) {
    throw new StepError(
      `${path}/native must hold one .node file, has ${[binary, ...more].join(', ')}`,
    );
  }
  const platform = binary.slice(manifest.napi.binaryName.length + 1, -'.node'.length);
  // napi writes only inside the workspace.
  const npm = join(path, 'npm');
  try {
    await pnpm(['exec', 'napi', 'create-npm-dirs'], { cwd: path, capture: true });
    await copyFile(join(path, 'native', binary), join(npm, platform, binary));
    return [`${manifest.napi.packageName}-${platform}`, await pack(join(npm, platform), folder)];
  } finally {
    await rm(npm, { recursive: true, force: true });
  }
}

async function checkContents(archive) {
  const files = (await run('tar', ['-tzf', archive], { capture: true })).split('\n');
  for (const needed of ['package/LICENSE', 'package/README.md', 'package/dist/index.d.ts']) {
    if (!files.includes(needed)) throw new StepError(`${archive} lacks ${needed}`);
  }
  const stray = files.find((file) => /\.(node|rs)$|(^|\/)(test|fixtures)\//.test(file));
  if (stray) throw new StepError(`${archive} should not hold ${stray}`);
}

async function tryInstalled(packages, archives, consumer) {
  await mkdir(consumer);
  const overrides = Object.fromEntries(
    Object.entries(archives).map(([name, archive]) => [name, `file:${archive}`]),
  );
  await writeFile(
    join(consumer, 'package.json'),
    JSON.stringify({ private: true, type: 'module', dependencies: overrides, pnpm: { overrides } }),
  );
  await writeFile(join(consumer, 'pnpm-workspace.yaml'), 'packages: []\n');
  const names = packages.map(({ manifest }) => manifest.name);
  await writeFile(
    join(consumer, 'load.mjs'),
    `import { createRequire } from 'node:module';
const require = createRequire(import.meta.url);
for (const name of ${JSON.stringify(names)}) {
  const imported = Object.keys(await import(name));
  const required = Object.keys(require(name));
  if (!imported.every((key) => required.includes(key))) throw new Error(name + ' loads differently by require');
}
`,
  );
  await pnpm(['install', '--prefer-offline', '--reporter=append-only'], { cwd: consumer });
  await run(process.execPath, ['--no-warnings', 'load.mjs'], { cwd: consumer });
  await pnpm(['exec', 'iceformer', '--version'], { cwd: consumer });
}

/** What the index is used for in the trial, from ESM and from CommonJS. */
const USE_INDEX = `
  const index = new KnnIndex({ dimensions: 2, metric: 'l2' });
  index.addBatch(new Float32Array([0, 0, 3, 4, 6, 8]));
  index.remove(0);
  index.searchBatchAsync(new Float32Array([3, 3]), { k: 2 }).then(({ ids, scores }) => {
    const found = [...ids, ...scores, KnnIndex.fromBuffer(index.toBuffer()).size].join(' ');
    if (found !== '1 2 1 34 2') throw new Error('the index found ' + found);
    index.close();
  });
`;

/**
 * npm finds neither a compiler nor a shell, and no registry: what the archives hold must be enough.
 *
 * @param {Record<string, string>} archives @param {string} folder
 */
async function tryIndexAlone(archives, folder) {
  const name = '@iceformer/knn-index';
  const own = Object.keys(archives).filter((key) => key.startsWith(name));
  const dependencies = Object.fromEntries(own.map((key) => [key, `file:${archives[key]}`]));
  const bin = join(folder, 'bin');
  await mkdir(bin, { recursive: true });
  await symlink(process.execPath, join(bin, 'node'));
  const manifest = { private: true, dependencies };
  await writeFile(join(folder, 'package.json'), JSON.stringify(manifest));
  await writeFile(join(folder, 'esm.mjs'), `import { KnnIndex } from '${name}';${USE_INDEX}`);
  await writeFile(join(folder, 'cjs.cjs'), `const { KnnIndex } = require('${name}');${USE_INDEX}`);
  const env = { PATH: bin, npm_config_cache: join(folder, 'cache') };
  const options = { cwd: folder, env };
  await run(
    process.execPath,
    [await npmPath(), 'install', '--offline', '--no-audit', '--no-fund'],
    options,
  );
  for (const script of ['esm.mjs', 'cjs.cjs']) {
    await run(process.execPath, ['--no-warnings', script], options);
  }
  console.log(`${own.join(' and ')} installed and used without compiler or network`);
}

/** The npm that came with Node. */
async function npmPath() {
  const node = await realpath(process.execPath);
  for (const modules of ['../lib/node_modules', 'node_modules']) {
    const path = join(dirname(node), modules, 'npm/bin/npm-cli.js');
    if (existsSync(path)) return path;
  }
  throw new StepError(`there is no npm beside ${node}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) start(checkPackages);
