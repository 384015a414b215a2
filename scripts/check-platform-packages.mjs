import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ROOT, StepError, start } from './step.mjs';

/** Before a release: every platform package that a package's `napi.targets` promises is there, with its addon in it. */
async function checkPlatformPackages() {
  for (const name of await readdir(join(ROOT, 'packages'))) {
    const manifest = await readManifest(join(ROOT, 'packages', name));
    if (!manifest.napi) continue;
    const npm = join(ROOT, 'packages', name, 'npm');
    const platforms = await readdir(npm);
    if (platforms.length !== manifest.napi.targets.length) {
      throw new StepError(
        `${manifest.name} promises ${manifest.napi.targets.length} platforms, ${npm} has ${platforms.join(', ')}`,
      );
    }
    for (const platform of platforms) await checkPlatform(join(npm, platform), manifest, platform);
    console.log(`${manifest.name} ${manifest.version}: ${platforms.join(', ')}`);
  }
}

async function checkPlatform(folder, main, platform) {
  const manifest = await readManifest(folder);
  const expected = `${main.napi.packageName}-${platform}`;
  if (manifest.name !== expected || manifest.version !== main.version) {
    throw new StepError(
      `${folder} is ${manifest.name} ${manifest.version}, not ${expected} ${main.version}`,
    );
  }
  for (const file of manifest.files) {
    const size = await stat(join(folder, file)).then(
      (found) => found.size,
      () => 0,
    );
    if (size === 0) throw new StepError(`${folder}/${file} is missing or empty`);
  }
}

async function readManifest(folder) {
  return JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'));
}

start(checkPlatformPackages);
